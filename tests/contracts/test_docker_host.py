"""What is the Docker host's alone: pulls, the launcher, crash points, the engine's bad days."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import docker
import pytest

from dstack_engine.errors import (
    ContainerFailed,
    DiskFull,
    HostUnreachable,
    ImageUnavailable,
    PortTaken,
)
from dstack_engine.home import Home
from dstack_engine.hosts.base import Limits, RegistryAuth
from dstack_engine.hosts.docker import DockerHost
from dstack_engine.hosts.logs import LogReader
from dstack_engine.records.routes import Route
from dstack_engine.records.sightings import Container
from tests.contracts.hosts import FolderFiles, Ground, docker_host, eventually
from tests.hosts import images
from tests.hosts.engines import Engine, PrivateDockerd
from tests.hosts.fixtures import MakeDockerd
from tests.hosts.registries import Registry

pytestmark = pytest.mark.docker


@pytest.fixture
def ground(request: pytest.FixtureRequest, home: Path) -> Iterator[Ground]:
    """This machine's Docker Engine."""
    ground = docker_host(request, Home(home))
    yield ground
    ground.tear_down()


@pytest.fixture
def private(
    private_dockerd: MakeDockerd, busybox_image: str, home: Path
) -> Callable[..., tuple[PrivateDockerd, Ground]]:
    """An engine that the test may break, and the host on it."""

    def make(**options: object) -> tuple[PrivateDockerd, Ground]:
        dockerd = private_dockerd(**options)
        place = Ground(lambda **o: DockerHost(dockerd.host, **o), Home(home), image=busybox_image)
        return dockerd, place

    return make


# Images


def wanting(ground: Ground, image: str, auth: RegistryAuth | None = None) -> None:
    ground.host.prepare(ground.spec("true", image=image, registry_auth=auth), lambda *_: None)


def test_an_image_that_is_here_is_not_asked_for(ground: Ground, busybox_image: str) -> None:
    told: list[object] = []

    ground.host.prepare(ground.spec("true", image=busybox_image), lambda *step: told.append(step))

    assert told == []
    assert isinstance(ground.host, DockerHost)
    assert ground.host.has_image(busybox_image)
    assert not ground.host.has_image("dstack-test/none:1")


def test_a_pull_tells_how_far_it_is_and_ends_at_one(
    docker_engine: Engine,
    private: Callable[..., tuple[PrivateDockerd, Ground]],
    open_registry: Registry,
) -> None:
    client = docker_engine.client
    images.random_image(client, "dstack-test/random:40", 40)
    name = open_registry.push(client, "dstack-test/random:40", "random:40")
    client.images.remove("dstack-test/random:40")
    _, ground = private(disk_mb=256)
    told: list[tuple[str, float | None, str]] = []

    ground.host.prepare(ground.spec("true", image=name), lambda *step: told.append(step))

    fractions = [fraction for _, fraction, _ in told if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any(0 < fraction < 1 for fraction in fractions)
    assert any(text.endswith("/40.0 MB") for _, _, text in told)


def test_a_registrys_password_is_used_and_a_wrong_one_is_told(
    ground: Ground, docker_engine: Engine, registry: Registry, busybox_image: str
) -> None:
    name = registry.push(docker_engine.client, busybox_image, "mine/busybox:1")
    assert registry.username
    assert registry.password

    with pytest.raises(ImageUnavailable, match="does not take this user name and password"):
        wanting(ground, name, RegistryAuth(registry.username, "wrong"))
    with pytest.raises(ImageUnavailable, match="wants a user name and a password"):
        wanting(ground, name)
    wanting(ground, name, RegistryAuth(registry.username, registry.password))

    docker_engine.client.images.remove(name)


def test_a_missing_image_and_a_missing_registry_are_told_apart(
    ground: Ground, open_registry: Registry
) -> None:
    with pytest.raises(ImageUnavailable, match="does not exist in its registry"):
        wanting(ground, f"{open_registry.address}/nothing:1")
    with pytest.raises(ImageUnavailable, match="cannot reach its registry"):
        wanting(ground, "127.0.0.1:9/nothing:1")


def test_a_pull_that_fills_the_disk_says_so(
    docker_engine: Engine,
    private: Callable[..., tuple[PrivateDockerd, Ground]],
    open_registry: Registry,
) -> None:
    client = docker_engine.client
    images.random_image(client, "dstack-test/random:60", 60)
    name = open_registry.push(client, "dstack-test/random:60", "random:60")
    client.images.remove("dstack-test/random:60")
    _, ground = private(disk_mb=48)

    with pytest.raises(DiskFull, match="the disk of the Docker Engine is full"):
        wanting(ground, name)


# The container


def test_without_bash_the_script_runs_by_sh(ground: Ground, busybox_image: str) -> None:
    assert ground.run("echo $0\n", image=busybox_image).stdout == b"sh\n"


def test_with_bash_it_runs_by_bash_and_as_whom_it_was_asked(ground: Ground, tmp_path: Path) -> None:
    files = FolderFiles.of(tmp_path / "project", {"sub/a": "1"})
    script = "echo ${BASH_VERSION:+bash} $(id -u) $HOME; touch sub/mine ../workflow/also; ls sub\n"

    for user, uid in (("1234", 1234), ("nobody:nogroup", 65534)):
        ended = ground.run(script, files, user=user, home_dir="/tmp/home")

        assert ended.stdout == b"bash %d /tmp/home\na\nmine\n" % uid


def test_the_job_sees_no_variable_of_ours(ground: Ground) -> None:
    ended = ground.run("env | cut -d= -f1 | sort\n", environment={"MINE": "1"})

    names = set(ended.stdout.decode().split())
    assert names - {"PATH", "HOSTNAME", "PWD", "SHLVL", "_", "OLDPWD", "LANG"} == {"HOME", "MINE"}


def test_an_image_without_a_command_is_told(ground: Ground, busybox_image: str) -> None:
    client = docker.APIClient(ground.host.base_url)  # type: ignore[attr-defined]
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    client.import_image_from_data(empty.getvalue(), repository="dstack-test/empty", tag="1")

    with pytest.raises(ContainerFailed, match="no command of its own"):
        ground.start(None, image="dstack-test/empty:1")
    client.remove_image("dstack-test/empty:1")


def test_limits_are_really_set(ground: Ground) -> None:
    limits = Limits(cpus=0.5, memory_gb=0.25, shm_gb=0.125)
    script = "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2\nsleep 60\n"
    name = ground.start(script, limits=limits)
    ground.follow(name)

    ground.wait_for_output(name, b"%d\n" % (128 << 10))

    client = docker.APIClient(ground.host.base_url)  # type: ignore[attr-defined]
    config = client.inspect_container(name)["HostConfig"]
    assert (config["NanoCpus"], config["Memory"], config["MemorySwap"]) == (
        500_000_000,
        256 << 20,
        256 << 20,
    )


def test_gpus_are_asked_of_the_engine_by_uuid(ground: Ground) -> None:
    spec = ground.spec("true", limits=Limits(gpus=("GPU-aaa", "GPU-bbb")))

    with pytest.raises(ContainerFailed):  # nobody has such GPUs
        ground.start_spec(spec)

    client = docker.APIClient(ground.host.base_url)  # type: ignore[attr-defined]
    (request,) = client.inspect_container(spec.name)["HostConfig"]["DeviceRequests"]
    assert request["DeviceIDs"] == ["GPU-aaa", "GPU-bbb"]
    assert request["Capabilities"] == [["gpu"]]


def test_the_container_ends_itself_after_its_max_duration(ground: Ground) -> None:
    ended = ground.run(
        "trap 'echo saving; exit 9' TERM; sleep 60 & wait\n", max_duration=timedelta(seconds=1)
    )
    assert (ended.exit_code, ended.stdout) == (9, b"saving\n")

    seen = ground.run("sleep 60\n", max_duration=timedelta(seconds=1)).sighting
    assert (seen.timed_out, seen.signal, seen.interrupted) == (True, 15, False)


def test_a_command_that_the_image_does_not_have_is_told(ground: Ground) -> None:
    ended = ground.run(None, entrypoint=("/no/such/program",))

    assert ended.exit_code == 127
    assert b"/no/such/program" in ended.stderr


def test_a_port_that_another_container_has_is_told(ground: Ground, free_port: int) -> None:
    ground.start("sleep 60\n", routes=(Route(free_port, 80),))

    with pytest.raises(PortTaken, match=str(free_port)):
        ground.start("sleep 60\n", routes=(Route(free_port, 80),))


@pytest.fixture
def free_port() -> int:
    """A port of this computer that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# Crash points of start


class Crash(Exception):
    """The engine dies here."""


class CrashingFiles(FolderFiles):
    """Files of which half are sent when the engine dies."""

    def write_tar(self, target: BinaryIO) -> None:
        half = io.BytesIO()
        super().write_tar(half)
        target.write(half.getvalue()[: len(half.getvalue()) // 2])
        raise Crash


def test_a_start_cut_off_at_any_step_is_finished_by_the_next(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FolderFiles.of(tmp_path / "project", {"a": "x" * 100_000, "b": "y" * 100_000})
    spec = ground.spec("cat a b | wc -c\n")
    log = ground.log(spec.name)

    with monkeypatch.context() as patch:  # created, no files
        patch.setattr(DockerHost, "_fill", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            ground.host.start(spec, files, log)
    assert ground.host.look(spec.name).container is Container.CREATED
    with pytest.raises(Crash):  # half of the files
        ground.host.start(spec, CrashingFiles(files.folder), log)
    assert ground.host.look(spec.name).container is Container.CREATED

    ground.restart_engine()
    ground.start_spec(spec, files)

    assert ground.wait(spec.name).stdout == b"200000\n"


# Logs

FOLLOWER = """
import sys
from pathlib import Path
from dstack_engine.hosts.docker import DockerHost
DockerHost(sys.argv[1]).attend(sys.argv[2], Path(sys.argv[3]))
"""


def test_a_follower_killed_again_and_again_loses_and_repeats_nothing(ground: Ground) -> None:
    long = "head -c 40000 /dev/zero | tr '\\0' z"
    script = (
        "for i in $(seq 1 3000); do echo out $i; echo err $i >&2; done\n"
        f"{long}; echo; {long} >&2; echo; sleep 0.3\n"
    )
    name = ground.start(script * 6)
    for _ in range(6):
        before = LogReader(ground.log(name)).end
        follower = subprocess.Popen(
            [sys.executable, "-c", FOLLOWER, ground.host.base_url, name, ground.log(name)]  # type: ignore[attr-defined]
        )
        eventually(
            lambda before=before, follower=follower: (  # type: ignore[misc]
                LogReader(ground.log(name)).end > before or follower.poll() is not None
            ),
            "more output",
        )
        follower.kill()
        follower.wait()

    ended = ground.wait(name)

    # A line above 16 KB whose newline is the last byte of all would come without it: the engine
    # does not tell it from one without newline.
    lines = b"".join(b"out %d\n" % n for n in range(1, 3001)) + b"z" * 40000 + b"\n\n"
    errors = b"".join(b"err %d\n" % n for n in range(1, 3001)) + b"z" * 40000
    assert ended.stdout == lines * 6
    assert ended.stderr == errors * 6


ENGINE = """
import sys
from pathlib import Path
from dstack_engine.hosts.base import ContainerSpec
from dstack_engine.hosts.docker import DockerHost
url, name, image, label, script, log = sys.argv[1:]
host = DockerHost(url)
host.start(ContainerSpec(name, {"test": label}, script, image=image), None, Path(log))
host.attend(name, Path(log))
"""

#: Prints lines in pieces, bars, lines above 16 KB, by two streams at once, with and without pauses.
PRINTER = """
import random, sys, time
rng = random.Random(int(sys.argv[1]))
streams = {b"out": sys.stdout.buffer, b"err": sys.stderr.buffer}
for n in range(300):
    name = rng.choice((b"out", b"err"))
    end = rng.choice((b"\\r", b" ", b"\\n", b"\\n", b"." * rng.choice((1, 9000, 40000))))
    streams[name].write(b"%s-%d" % (name, n) + end)
    streams[name].flush()
    if rng.random() < 0.3:
        time.sleep(rng.choice((0.001, 0.02, 0.04)))
for name, stream in streams.items():
    stream.write(b"\\n%s ends\\n" % name)
    stream.flush()
"""


def printed_by(seed: int) -> tuple[bytes, bytes]:
    """Return what the printer prints, as a pipe has it."""
    ended = subprocess.run(
        [sys.executable, "-c", PRINTER, str(seed)], capture_output=True, check=True
    )
    return ended.stdout, ended.stderr


def kill_once_more_came(process: subprocess.Popen[bytes], ground: Ground, log: Path) -> None:
    """Kill the process when the log has grown, or let it be when it has ended."""
    before = LogReader(log).end
    eventually(
        lambda: LogReader(log).end > before + 2000 or process.poll() is not None, "more output"
    )
    process.kill()
    process.wait()


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_lines_seen_early_are_neither_lost_nor_repeated_by_an_engine_that_is_killed(
    ground: Ground, seed: int
) -> None:
    script = f"exec python3 -c '{PRINTER}' {seed}\n"
    spec = ground.spec(script)
    log = ground.log(spec.name)
    arguments = [spec.name, str(spec.image), ground.labels["test"], script, str(log)]
    url: str = ground.host.base_url  # type: ignore[attr-defined]
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, url, *arguments])

    for _ in range(seed):
        kill_once_more_came(engine, ground, log)
        engine = subprocess.Popen([sys.executable, "-c", FOLLOWER, url, spec.name, str(log)])
    engine.wait(60)

    ended = ground.wait(spec.name)
    assert (ended.stdout, ended.stderr) == printed_by(seed)


def test_an_attachment_that_breaks_costs_nothing_but_early_sight(ground: Ground) -> None:
    name = ground.start(
        "printf bar; while [ ! -e go ]; do sleep 0.02; done; echo ' over'; printf end\n"
    )
    ground.follow(name)
    ground.wait_for_output(name, b"bar")

    ground.host._attachments.get(name).close()  # type: ignore[attr-defined]
    ground.host.execute(name, ["touch", "go"], lambda *_: None)

    assert ground.wait(name).stdout == b"bar over\nend"


def test_a_container_that_nobody_attends_is_not_held_up(ground: Ground) -> None:
    name = ground.start("head -c 5000000 /dev/zero | tr '\\0' x; echo; echo last\n")
    client = docker.APIClient(ground.host.base_url, timeout=60)  # type: ignore[attr-defined]
    client.wait(name)

    assert ground.wait(name).stdout == b"x" * 5_000_000 + b"\nlast\n"


def test_attending_again_after_the_end_adds_nothing(ground: Ground) -> None:
    name = ground.start("printf 'a\\nb'; printf c >&2\n")
    first = ground.wait(name)

    again = ground.wait(name)

    assert (first.stdout, first.stderr) == (b"a\nb", b"c")
    assert again == first


def test_more_than_the_engine_keeps_leaves_a_mark_between_what_was_and_what_is(
    ground: Ground,
) -> None:
    ground.restart_engine(log_cap=1 << 20)
    name = ground.start("echo first; while [ ! -e go ]; do sleep 0.05; done; seq 1 1000000\n")
    follower = subprocess.Popen(
        [sys.executable, "-c", FOLLOWER, ground.host.base_url, name, ground.log(name)]  # type: ignore[attr-defined]
    )
    ground.wait_for_output(name, b"first\n")
    follower.kill()
    follower.wait()
    ground.host.execute(name, ["touch", "go"], lambda *_: None)
    client = docker.APIClient(ground.host.base_url, timeout=60)  # type: ignore[attr-defined]
    client.wait(name)

    ended = ground.wait(name)

    assert ended.stdout.startswith(b"first\n\n[... some output was not kept")
    assert ended.stdout.endswith(b"\n999999\n1000000\n")


@pytest.mark.slow
def test_200_mb_without_newline_end_with_their_end_and_take_little_room(
    ground: Ground,
) -> None:
    ground.restart_engine(log_cap=8 << 20)
    started = "head -c 200000000 /dev/zero | tr '\\0' x; echo; echo last\n"
    name = ground.start(started)

    ended = ground.wait(name, patience=200)

    assert ended.exit_code == 0
    assert ended.stdout.startswith(b"xxxx")
    assert ended.stdout.endswith(b"\nlast\n")
    assert b"were not kept" in ground.output(name, "cut")
    assert sum(file.stat().st_size for file in ground.log(name).iterdir()) < 10 << 20
    client = docker.APIClient(ground.host.base_url)  # type: ignore[attr-defined]
    found = client.inspect_container(name)
    kept = Path(client.info()["DockerRootDir"], "containers", found["Id"], "local-logs")
    assert sum(file.stat().st_size for file in kept.iterdir()) < 6 * (8 << 20)


# The engine's bad days


def test_an_engine_that_is_not_there_is_unreachable_in_words(tmp_path: Path) -> None:
    host = DockerHost(f"unix://{tmp_path}/none.sock")

    assert not host.reachable()
    with pytest.raises(HostUnreachable, match="nothing listens there"):
        host.look("t-none")
    with pytest.raises(HostUnreachable, match="nothing listens there"):
        host.list_containers({})


def attending(ground: Ground, name: str) -> tuple[threading.Thread, list[BaseException]]:
    """Attend in the background; return the thread and what it will have raised."""
    raised: list[BaseException] = []

    def attend() -> None:
        try:
            ground.host.attend(name, ground.log(name))
        except HostUnreachable as error:
            raised.append(error)

    thread = threading.Thread(target=attend)
    thread.start()
    return thread, raised


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_container_whose_engine_went_down_is_interrupted(
    private: Callable[..., tuple[PrivateDockerd, Ground]], how: str
) -> None:
    dockerd, ground = private(disk_mb=64)
    name = ground.start("echo ready; sleep 1000\n")
    thread, _ = attending(ground, name)
    ground.wait_for_output(name, b"ready\n")

    dockerd.stop() if how == "restart" else dockerd.kill()
    thread.join(60)
    assert not thread.is_alive()
    with pytest.raises(HostUnreachable):
        ground.host.attend(name, ground.log(name))
    dockerd.start()

    seen = ground.host.look(name)
    assert (seen.container, seen.interrupted) == (Container.EXITED, True)
    assert ground.wait(name).stdout == b"ready\n"


def test_under_live_restore_containers_and_logs_go_on(
    private: Callable[..., tuple[PrivateDockerd, Ground]],
) -> None:
    dockerd, ground = private(disk_mb=64, live_restore=True)
    script = "echo ready; while [ ! -e go ]; do sleep 0.1; done; echo after; exit 3\n"
    name = ground.start(script)
    thread, raised = attending(ground, name)
    ground.wait_for_output(name, b"ready\n")

    dockerd.kill()
    thread.join(60)
    assert [type(error) for error in raised] == [HostUnreachable]
    dockerd.start()

    thread, raised = attending(ground, name)
    ground.host.execute(name, ["touch", "go"], lambda *_: None)
    thread.join(60)
    ended = ground.wait(name)
    assert (ended.stdout, ended.exit_code) == (b"ready\nafter\n", 3)
    assert not ended.sighting.interrupted


def test_files_that_do_not_fit_on_the_disk_are_told_and_fit_later(
    private: Callable[..., tuple[PrivateDockerd, Ground]], tmp_path: Path
) -> None:
    dockerd, ground = private(disk_mb=48)
    files = FolderFiles.of(tmp_path / "project", {"big": "x" * (20 << 20)})
    spec = ground.spec("wc -c < big\n")
    dockerd.fill_disk(leave_mb=8)

    with pytest.raises(DiskFull):
        ground.start_spec(spec, files)
    dockerd.free_disk()
    ground.start_spec(spec, files)

    assert ground.wait(spec.name).stdout == b"%d\n" % (20 << 20)
