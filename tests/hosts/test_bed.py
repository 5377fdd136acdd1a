"""The bed of hosts is what it says: machines that answer by SSH, and the bad days they have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from docker.errors import APIError
from docker.types import DeviceRequest

from tests.hosts.bed import Bed
from tests.hosts.bed_host import BedHost
from tests.hosts.commands import REPOSITORY
from tests.hosts.engines import wait_for

pytestmark = pytest.mark.docker


def ssh(host: BedHost, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
    """Run *command* on the host by SSH; a silent one is given up after 2 s."""
    options = ["-F", "none", "-i", str(host.identity_file), "-o", "BatchMode=yes"]
    options += ["-o", "ConnectTimeout=2", "-o", "StrictHostKeyChecking=no"]
    options += ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    return subprocess.run(
        ["ssh", *options, f"{user}@{host.address}", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def answers(host: BedHost) -> bool:
    return ssh(host, "true").returncode == 0


def test_every_host_answers_by_ssh_with_its_own_name_address_and_files(
    bed: Bed, tmp_path: Path
) -> None:
    said = [ssh(h, f"hostname; ip -4 -o a s eth0; ls {tmp_path}").stdout for h in bed.hosts]
    assert [words.split()[0] for words in said] == ["h1", "h2", "h3"]
    assert all(host.address in words for host, words in zip(bed.hosts, said, strict=True))
    assert all("No such file" in ssh(host, f"ls {tmp_path}").stderr for host in bed.hosts)


def test_docker_runs_on_every_host_and_knows_its_own_containers_only(
    bed: Bed, busybox_image: str
) -> None:
    for host in bed.hosts:
        said = ssh(host, f"docker run --name only-{host.name} {busybox_image} hostname")
        assert (said.returncode, said.stderr) == (0, "")
    assert bed.containers() == {"h1": ["only-h1"], "h2": ["only-h2"], "h3": ["only-h3"]}


def test_a_host_has_a_user_who_may_use_docker_and_one_who_may_not(bed: Bed) -> None:
    asked = {user: ssh(bed.hosts[0], "docker ps -q", user=user) for user in ("ann", "bob")}
    assert asked["ann"].returncode == 0, asked["ann"].stderr
    assert "permission denied" in asked["bob"].stderr


def test_hosts_reach_each_other_and_nothing_beyond(bed: Bed) -> None:
    first, second, _ = bed.hosts
    knock = "timeout 2 bash -c 'exec 3<>/dev/tcp/{}/22; head -c 4 <&3'"
    assert ssh(first, knock.format(second.address)).stdout == "SSH-"
    assert "unreachable" in ssh(first, knock.format("192.0.2.1")).stderr


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (BedHost.cut, BedHost.heal),
        (BedHost.blackhole, BedHost.unblackhole),
        (BedHost.freeze, BedHost.thaw),
    ],
)
def test_a_silent_host_answers_no_more_until_it_is_healed(
    bed: Bed, fault: Callable[[BedHost], None], remedy: Callable[[BedHost], None]
) -> None:
    first, second, _ = bed.hosts
    fault(first)
    began = time.monotonic()
    assert not answers(first)
    assert time.monotonic() - began > 1
    assert answers(second)
    remedy(first)
    wait_for(lambda: answers(first), "the healed host", 20)


def test_a_host_that_lost_power_is_silent_and_comes_back_with_its_disk(
    bed: Bed, busybox_image: str
) -> None:
    host = bed.hosts[0]
    host.docker.containers.run(busybox_image, ["sleep", "1000"], name="kept", detach=True)
    before = ssh(host, "touch /root/kept; cat /proc/sys/kernel/random/boot_id").stdout
    host.kill()
    assert "timed out" in ssh(host, "true").stderr
    host.poweron()
    kept, after = ssh(host, "ls /root; cat /proc/sys/kernel/random/boot_id").stdout.split()
    assert kept == "kept"
    assert after != before.strip()
    assert host.docker.containers.get("kept").status == "exited"


def test_a_crashed_host_refuses_at_once(bed: Bed) -> None:
    bed.hosts[0].crash()
    assert "refused" in ssh(bed.hosts[0], "true").stderr
    assert not bed.hosts[0].running
    bed.hosts[0].poweron()
    assert answers(bed.hosts[0])


def test_two_hosts_can_lose_each_other_while_we_see_both(bed: Bed) -> None:
    first, second, third = bed.hosts
    knock = "timeout 1 bash -c 'exec 3<>/dev/tcp/{}/22; head -c 4 <&3'"
    first.partition(second)
    seen = [ssh(first, knock.format(other.address)).stdout for other in (second, third)]
    assert seen == ["", "SSH-"]
    first.unpartition(second)
    assert ssh(first, knock.format(second.address)).stdout == "SSH-"


def test_a_slow_cable_carries_what_it_is_told(bed: Bed) -> None:
    bed.hosts[0].slow("8mbit")
    began = time.monotonic()
    assert len(ssh(bed.hosts[0], "head -c 2000000 /dev/zero | tr '\\0' x").stdout) == 2_000_000
    assert 1.5 < time.monotonic() - began < 15


def test_a_docker_engine_can_end_and_start_while_its_host_lives(bed: Bed) -> None:
    host = bed.hosts[0]
    host.stop_docker(kill=True)
    assert answers(host)
    assert "Is the docker daemon running" in ssh(host, "docker ps").stderr
    host.start_docker()
    assert ssh(host, "docker ps -q").returncode == 0


def test_a_disk_can_be_full_and_free_again(bed: Bed, busybox_image: str) -> None:
    host = bed.hosts[0]
    host.fill_disk()
    with pytest.raises(APIError, match="no space left"):
        host.docker.containers.run(busybox_image, ["dd", "if=/dev/zero", "of=/big", "count=9000"])
    host.free_disk()
    assert host.docker.containers.run(busybox_image, ["echo", "well"]) == b"well\n"


def test_a_host_with_gpus_tells_and_gives_them(bed: Bed, busybox_image: str) -> None:
    host = bed.hosts[0]
    first, second = host.give_gpus(2)
    assert ssh(host, "nvidia-smi --query-gpu=uuid --format=csv,noheader").stdout.split() == [
        first,
        second,
    ]
    wanted = [DeviceRequest(device_ids=[second], capabilities=[["gpu"]])]
    said = host.docker.containers.run(busybox_image, ["env"], device_requests=wanted)
    assert f"NVIDIA_VISIBLE_DEVICES={second}" in said.decode()


def test_gpus_without_the_toolkit_are_told_and_not_given(bed: Bed, busybox_image: str) -> None:
    host = bed.hosts[0]
    host.give_gpus(1, toolkit=False)
    assert "H100" in ssh(host, "nvidia-smi -L").stdout
    wanted = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    with pytest.raises(APIError, match="could not select device driver"):
        host.docker.containers.run(busybox_image, ["env"], device_requests=wanted)


def test_an_sshd_can_forbid_forwarding_and_its_key_can_change(bed: Bed) -> None:
    host = bed.hosts[0]
    host.sshd_says("AllowTcpForwarding no")
    assert ssh(host, "true").returncode == 0
    scan = ["ssh-keyscan", "-t", "ed25519", host.address]
    before = subprocess.run(scan, capture_output=True, check=True).stdout
    assert host.new_host_key().startswith("SHA256:")
    assert subprocess.run(scan, capture_output=True, check=True).stdout != before


def test_what_was_done_to_hosts_is_mended_and_they_are_emptied(
    bed: Bed, busybox_image: str
) -> None:
    first, second, third = bed.hosts
    first.docker.volumes.create("claim")
    first.docker.containers.run(busybox_image, ["sleep", "1000"], detach=True)
    first.kill()
    second.cut()
    second.fill_disk()
    third.give_gpus(1)
    third.freeze()
    bed.mend()
    assert [answers(host) for host in bed.hosts] == [True, True, True]
    assert bed.containers() == {"h1": [], "h2": [], "h3": []}
    assert not first.docker.volumes.list()
    assert "No such file" in ssh(third, "ls /usr/local/bin/nvidia-smi").stderr


KILLED = """
import time
from tests.hosts.bed import Bed
bed = Bed(1)
bed.start()
print(bed.hosts[0].address, bed.identity_file.parent.name, flush=True)
time.sleep(1000)
"""


def test_two_beds_do_not_meet_and_what_a_killed_session_left_is_cleared(bed: Bed) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'engine'}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        address, name = other.stdout.readline().split()
        assert address not in {host.address for host in bed.hosts}
        other.send_signal(signal.SIGKILL)
    Path(f"/tmp/{name}/left").touch()
    with Bed(1):
        assert not Path(f"/tmp/{name}/left").exists()


def test_a_bed_that_is_closed_leaves_nothing() -> None:
    threads = threading.active_count()
    with Bed(2) as bed:
        folder = Path(bed.identity_file).parent
        name = folder.name
    assert not folder.exists()
    assert not list(Path("/run/netns").glob(f"{name}-*"))
    assert str(folder) not in Path("/proc/self/mounts").read_text()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{name}-*"))
    assert threading.active_count() <= threads + 1
