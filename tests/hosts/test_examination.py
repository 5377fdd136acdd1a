"""A look into a machine: what is read from recorded outputs, and a real look at this computer."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_engine.hosts import claims, machine_docker
from dstack_engine.hosts.base import ContainerSpec, Limits
from dstack_engine.hosts.claims import Owner, unclaim
from dstack_engine.hosts.docker_containers import creation
from dstack_engine.hosts.machine_docker import GpuTrial, try_gpus
from dstack_engine.hosts.machine_examination import (
    docker_absence,
    examine_machine,
    free_disk,
    gpu_refusals,
    internal_address,
)
from dstack_engine.hosts.machine_fixes import Fixes, without_sudo
from dstack_engine.hosts.machine_gpus import amd_name, foreign_use, in_words, read_gpus
from dstack_engine.hosts.machine_script import Answers, clock_ahead, read_answers, script_text
from dstack_engine.records.findings import Finding
from dstack_engine.records.machines import Examination
from dstack_engine.records.offers import Gpu
from tests.hosts.engines import Engine
from tests.hosts.looks import (
    BLOCKED,
    BROKEN,
    EIGHT_H100,
    MARK,
    MISMATCH,
    MIXED,
    NOT_RUNNING,
    SPLIT,
    Here,
    answers,
    printed,
)

OWNER = Owner("home-of-ann", "ann@laptop")
FIXES = Fixes("ann", False, frozenset({"apt-get", "systemctl"}))
CARD = "CARD=0000:01:00.0"


def gpus_told(*lines: str, **parts: str | tuple[str, ...]) -> Answers:
    return answers(nvidia=lines, nvidia__end="0", **parts)


# The answers of the script


def test_what_a_login_shell_greets_with_is_no_answer() -> None:
    found = read_answers(printed(system="USER=ann"), MARK)
    assert found.facts("system") == {"USER": "ann"}
    assert found.complete


def test_an_answer_that_stops_in_the_middle_is_known_by_it() -> None:
    assert not read_answers(f"{MARK} system USER=ann", MARK).complete


@pytest.mark.parametrize(
    ("told", "ahead"), [(("1000.5", "1001.5"), 0.0), (("1007.5", "1008.5"), 7.0)]
)
def test_the_clock_is_compared_across_the_way_there_and_back(
    told: tuple[str, str], ahead: float
) -> None:
    assert clock_ahead(answers(clock=told), 1000.0, 1002.0) == ahead


def test_a_clock_without_fractions_is_read_too() -> None:
    assert clock_ahead(answers(clock=("1000.%N", "1000N")), 1000.0, 1001.0) == -0.5


def test_the_disk_is_the_one_of_dockers_folder() -> None:
    assert free_disk(answers()) == 500.0
    assert free_disk(Answers()) is None


# NVIDIA


def test_eight_gpus_of_one_model_are_told_by_their_ids() -> None:
    report = read_gpus(gpus_told(*EIGHT_H100))
    assert in_words(report.gpus) == "8 × H100 (80 GB)"
    assert report.gpus[3] == Gpu("H100", 80.0, "nvidia", "GPU-35f1c0e2-8d1b", (9, 0))
    assert not report.findings


def test_different_gpus_are_kept_one_by_one() -> None:
    report = read_gpus(gpus_told(*MIXED))
    assert [gpu.name for gpu in report.gpus] == ["RTX4090", "A6000"]
    assert [finding.text for finding in report.findings] == [
        "GPU 1, a A6000, has had 3 memory errors (ECC) since it was started"
    ]


def test_a_gpu_that_is_split_is_not_offered_and_the_fix_makes_it_whole() -> None:
    report = read_gpus(gpus_told(*SPLIT))
    assert [gpu.uuid for gpu in report.gpus] == ["GPU-dd"]
    assert report.findings[0].fix == "sudo nvidia-smi -i 0 -mig 0"


def test_a_gpu_that_fell_off_the_bus_leaves_the_others() -> None:
    report = read_gpus(gpus_told(*BROKEN))
    assert [gpu.uuid for gpu in report.gpus] == ["GPU-ee"]
    assert report.findings[0].text.startswith("GPU 1 is not offered, nvidia-smi says: [Unknown")


@pytest.mark.parametrize(
    ("said", "text", "fix"),
    [
        (MISMATCH, "its NVIDIA driver was upgraded and the old one still runs", "sudo reboot"),
        (NOT_RUNNING, "its NVIDIA driver does not run", "sudo dkms autoinstall"),
        (BLOCKED, "Windows does not give its GPU to this user of WSL", "wsl --update"),
        ("Segmentation fault", "nvidia-smi fails: Segmentation fault", "sudo reboot"),
    ],
)
def test_a_driver_in_trouble_is_told_with_its_remedy(said: str, text: str, fix: str) -> None:
    report = read_gpus(answers(nvidia=said, nvidia__end="9"))
    assert report.gpus == ()
    assert report.findings[0].text.startswith(text)
    assert fix in str(report.findings[0].fix)


def test_a_driver_that_hangs_is_given_up() -> None:
    report = read_gpus(answers(nvidia__end="hung"))
    assert [finding.text for finding in report.findings] == ["nvidia-smi does not answer"]


def test_gpus_without_a_driver_are_told_of_and_none_at_all_are_no_trouble() -> None:
    assert read_gpus(answers()).findings == ()
    report = read_gpus(answers(nvidia_ground=(CARD, "CARD=0000:02:00.0")))
    assert report.findings[0].text == "it has 2 NVIDIA GPUs and no driver for them"
    assert "driver-installation-guide" in str(report.findings[0].fix)
    ubuntu = answers(nvidia_ground=CARD, system="ID=ubuntu")
    assert read_gpus(ubuntu).findings == (
        Finding(
            False,
            "gpus",
            "it has an NVIDIA GPU and no driver for it",
            "sudo ubuntu-drivers install --gpgpu && sudo reboot",
        ),
    )


def test_a_driver_without_a_gpu_is_no_trouble() -> None:
    assert read_gpus(answers(nvidia="No devices were found", nvidia__end="6")).findings == ()


# Who uses them

OURS, THEIRS = "a" * 64, "b" * 64


def used_by(group: str) -> Answers:
    use = ("use GPU-aa, 41, 20480, /usr/bin/python3", f"cgroup 41 0::/system.slice/{group}")
    return gpus_told(*MIXED, nvidia_use=use)


@pytest.mark.parametrize("group", [f"docker-{THEIRS}.scope", "user.slice/user-1000.slice"])
def test_a_gpu_that_somebody_else_uses_is_told(group: str) -> None:
    told = used_by(group)
    (finding,) = foreign_use(told, read_gpus(told).cards, {OURS})
    assert finding.text == (
        "GPU 0, a RTX4090, is in use by python3 (process 41): 0.6 GB of its memory"
    )
    assert not finding.fatal


def test_a_gpu_that_a_job_of_ours_uses_is_not_told() -> None:
    told = used_by(f"docker-{OURS}.scope")
    assert foreign_use(told, read_gpus(told).cards, {OURS}) == ()


def test_memory_in_use_by_nobody_who_can_be_seen_is_told() -> None:
    told = gpus_told("GPU-aa, NVIDIA L4, 23034, 9000, [N/A], 550.54.15, 0, 8.9, 0")
    cards = read_gpus(told).cards
    assert "in use by somebody else: 8.8 GB" in foreign_use(told, cards, set())[0].text
    assert foreign_use(told, cards, {OURS}) == ()


# AMD

AMD = (
    "renderD128 0000:05:00.0 device 0x74a1",
    "renderD128 0000:05:00.0 mem_info_vram_total 206141652992",
    "renderD128 0000:05:00.0 mem_info_vram_used 297271296",
    "renderD129 0000:c4:00.0 device 0x744c",
    "renderD129 0000:c4:00.0 mem_info_vram_total 21458059264",
    "renderD129 0000:c4:00.0 product_name",
    "renderD130 0000:65:00.0 device 0x164e",
    "renderD130 0000:65:00.0 mem_info_vram_total 67108864",
    "DRIVER=6.8.5",
)
ROCM = '{"card1": {"Card Series": "Radeon RX 7900 XT", "PCI Bus": "0000:C4:00.0"}}'
AMD_SMI = json.dumps(
    [{"gpu": 0, "asic": {"market_name": "Radeon RX 7900 XT"}, "bus": {"bdf": "0000:C4:00.0"}}]
)


@pytest.mark.parametrize("names", [ROCM, AMD_SMI, f'{{"gpu_data": {AMD_SMI}}}'])
def test_amds_gpus_are_told_by_the_kernel_and_named_by_amds_tools(names: str) -> None:
    report = read_gpus(answers(amd=(*AMD, "KFD=yes"), amd_names=("WARNING: no", names)))
    assert report.gpus == (
        Gpu("MI300X", 192.0, "amd", "amd:renderD128"),
        Gpu("RX7900XT", 20.0, "amd", "amd:renderD129"),
    )


def test_amds_gpus_without_the_kernels_door_to_them_are_not_offered() -> None:
    report = read_gpus(answers(amd=AMD))
    assert report.gpus == ()
    assert report.findings[0].fix == "sudo modprobe amdgpu"


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("AMD Instinct MI300X OAM", "MI300X"),
        ("Arcturus GL-XL [AMD Instinct MI100]", "MI100"),
        ("AMD Radeon RX 7900 XT", "RX7900XT"),
        ("Navi 21 [Radeon RX 6800/6800 XT / 6900 XT]", "RX6800"),
        ("", ""),
    ],
)
def test_amds_names_are_made_short(full: str, short: str) -> None:
    assert amd_name(full) == short


# Docker


@pytest.mark.parametrize(
    ("docker", "text", "fix"),
    [
        (("HAS=apt-get",), "no Docker Engine is installed", "apt-get install -y docker.io"),
        (("HAS=podman", "HAS=dnf"), "Podman does not do instead", "apt-get"),
        (("HAS=docker",), "the Docker Engine does not run", "sudo systemctl enable --now docker"),
        (("ROOTLESS=yes",), "only a rootless", "enable --now docker"),
        (("SOCKET=yes",), "ann may not use the Docker Engine", "sudo usermod -aG docker ann"),
        (("SOCKET=yes", "WRITABLE=yes", "PING=OK"), "does not forward", "AllowStreamLocalForward"),
        (("SOCKET=yes", "WRITABLE=yes"), "does not answer (cut)", "systemctl restart docker"),
    ],
)
def test_a_docker_engine_that_does_not_answer_is_told_why(
    docker: tuple[str, ...], text: str, fix: str
) -> None:
    found = docker_absence(answers(docker=docker), OSError("cut"), FIXES)
    assert found.fatal
    assert not found.ok
    assert text in found.text
    assert fix in str(found.fix)


def test_a_machine_without_apt_is_told_dockers_own_way() -> None:
    assert (
        Fixes("ann", False, frozenset({"dnf", "systemctl"}))
        .install_docker()
        .startswith(
            "curl -fsSL https://get.docker.com | sudo sh && sudo systemctl enable --now docker"
        )
    )


def test_root_is_told_no_sudo() -> None:
    fix = Fixes("root", True, frozenset({"systemctl", "dnf"})).install_toolkit()
    told = without_sudo(Finding(False, "docker gpus", "lacks it", fix))
    assert "sudo" not in str(told.fix)
    assert "| tee /etc/yum.repos.d/nvidia-container-toolkit.repo && dnf" in str(told.fix)


# The address


@pytest.mark.parametrize(
    ("connection", "network", "address"),
    [
        ("10.0.0.9 50122 10.0.0.5 22", None, "10.0.0.5"),
        ("10.0.0.9 50122 10.0.0.5 22", "192.168.0.0/16", "192.168.7.5"),
        ("10.0.0.9 50122 10.0.0.5 22", "10.9.0.0/16", None),
        ("203.0.113.1 50122 198.51.100.7 22", None, "192.168.7.5"),
    ],
)
def test_the_address_is_in_the_fleets_network_or_the_one_that_ssh_came_to(
    connection: str, network: str | None, address: str | None
) -> None:
    told = answers(system=(f"CONNECTION={connection}",))
    assert internal_address(told, network) == address


# GPUs that Docker does not give


def test_a_missing_toolkit_is_told_once_for_all_gpus() -> None:
    told = gpus_told(*EIGHT_H100)
    cards = read_gpus(told).cards
    why = 'could not select device driver "" with capabilities: [[gpu]]'
    trial = GpuTrial(frozenset(), {str(card.gpu.uuid): why for card in cards})
    (finding,) = gpu_refusals(cards, trial, told, FIXES)
    assert finding.text.startswith("8 × H100 (80 GB) not offered: the Docker Engine lacks")
    assert "apt-get install -y nvidia-container-toolkit" in str(finding.fix)


def test_a_toolkit_of_which_docker_was_not_told_is_only_configured() -> None:
    told = gpus_told(*MIXED, nvidia_ground=(CARD, "HAS=nvidia-ctk"))
    cards = read_gpus(told).cards
    trial = GpuTrial(frozenset(), {"GPU-aa": "could not select device driver"})
    (finding,) = gpu_refusals(cards, trial, told, FIXES)
    assert finding.fix == (
        "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
    )


def test_one_gpu_that_docker_cannot_give_is_named_with_dockers_words() -> None:
    told = gpus_told(*MIXED)
    why = "OCI runtime create failed:\nnvidia-container-cli: device error: GPU-bb: unknown device"
    trial = GpuTrial(frozenset({"GPU-aa"}), {"GPU-bb": why})
    (finding,) = gpu_refusals(read_gpus(told).cards, trial, told, FIXES)
    assert finding.text == (
        "GPU 1, a A6000, is not offered: Docker cannot give it: "
        "nvidia-container-cli: device error: GPU-bb: unknown device"
    )


# This computer


@pytest.fixture
def here(tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Here:
    # Tests beside this one look into the same machine.
    monkeypatch.setattr(claims, "CLAIM", f"claim-{tmp_path.name}")
    monkeypatch.setattr(machine_docker, "PROBE", f"probe-{tmp_path.name}".lower().strip("-_"))
    folder = tmp_path / "programs"
    folder.mkdir()
    return Here(folder, docker_engine.host)


def by_subject(found: Examination) -> dict[str, Finding]:
    return {finding.subject: finding for finding in found.findings}


def examined(here: Here) -> Examination:
    try:
        return examine_machine(here, OWNER)
    finally:
        unclaim(here.docker_url, OWNER)


@pytest.mark.docker
@pytest.mark.parametrize("shell", ["dash", "bash --posix", "busybox sh"])
def test_this_computer_is_looked_into_by_any_shell(here: Here, shell: str) -> None:
    here.shell = shell
    found = examined(here)
    assert found.usable
    assert found.shape is not None
    assert found.shape.cpus == os.cpu_count()
    assert found.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert found.clock_ahead is not None
    assert abs(found.clock_ahead) < 2
    subjects = by_subject(found)
    assert {"ssh", "docker", "claim", "cpu and memory", "disk", "ports"} <= set(subjects)
    assert subjects["claim"].ok


@pytest.mark.docker
def test_nothing_is_left_of_a_look(here: Here) -> None:
    here.program("nvidia-smi", f"printf '%s\\n' '{EIGHT_H100[0]}'")
    before = {*Path("/dev/shm").iterdir()}
    examined(here)
    assert {*Path("/dev/shm").iterdir()} == before
    assert not Engine(here.docker_url).client.images.list(machine_docker.PROBE)


@pytest.mark.docker
def test_a_machine_that_lies_about_its_gpus_offers_none(here: Here) -> None:
    here.program("nvidia-smi", f"printf '%s\\n' '{MIXED[0]}' '{MIXED[1]}'")
    found = examined(here)
    assert found.usable
    assert found.shape is not None
    assert found.shape.gpus == ()
    assert (
        "1 × RTX4090 (24 GB), 1 × A6000 (48 GB) not offered"
        in by_subject(found)["docker gpus"].text
    )
    assert "gpus" not in by_subject(found) or not by_subject(found)["gpus"].ok


@pytest.mark.docker
def test_an_old_driver_that_knows_fewer_words_is_asked_with_fewer(here: Here) -> None:
    refusal = 'Field "compute_cap" is not a valid field to query.'
    line = ",".join(MIXED[0].split(",")[:7])
    here.program(
        "nvidia-smi",
        f'case "$*" in *compute_cap*) echo \'{refusal}\'; exit 2;; esac; echo "{line}"',
    )
    text = here.run_script(script_text(MARK), 20)
    assert read_gpus(read_answers(text, MARK)).gpus == (
        Gpu("RTX4090", 24.0, "nvidia", "GPU-aa", (8, 9)),
    )


@pytest.mark.docker
def test_a_driver_that_hangs_does_not_hold_up_the_rest(here: Here) -> None:
    here.program("nvidia-smi", "trap '' TERM; sleep 60")
    began = time.monotonic()
    told = read_answers(here.run_script(script_text(MARK, patience=1), 20), MARK)
    assert time.monotonic() - began < 6
    assert told.code("nvidia") is None
    assert told.code("system") == 0
    assert told.complete


def test_a_program_that_prints_like_an_answer_is_not_believed(tmp_path: Path) -> None:
    here = Here(tmp_path, "unix:///nowhere")
    here.program("nvidia-smi", "printf 'x\\r\\na1b2 over 0\\na1b2 system UID=0\\nno newline'")
    told = read_answers(here.run_script(script_text("c3d4"), 20), "c3d4")
    assert "UID" in told.facts("system")
    assert told.part("nvidia")[-1] == "no newline"


def test_a_machine_without_docker_is_told_of_and_has_no_shape(tmp_path: Path) -> None:
    found = examine_machine(Here(tmp_path, f"unix://{tmp_path}/docker"), OWNER)
    assert not found.usable
    assert found.shape is None
    assert by_subject(found)["ssh"].ok
    assert by_subject(found)["docker"].fatal


@pytest.mark.docker
def test_a_machine_that_forwards_no_ports_can_still_be_used(here: Here) -> None:
    here.forwarding = "administratively prohibited"
    found = examined(here)
    assert found.usable
    assert "AllowTcpForwarding yes" in str(by_subject(found)["ports"].fix)


@pytest.mark.docker
def test_a_machine_of_another_engine_is_left_alone(here: Here) -> None:
    first = examine_machine(here, Owner("home-of-bob", "bob@desk"))
    try:
        found = examine_machine(here, OWNER)
    finally:
        unclaim(here.docker_url, Owner("home-of-bob", "bob@desk"))
    assert first.usable
    assert not found.usable
    assert by_subject(found)["claim"].text.startswith("is used by the engine of bob@desk since 20")


@pytest.mark.docker
def test_a_machine_that_is_not_in_its_fleets_network_is_told(here: Here) -> None:
    try:
        found = examine_machine(here, OWNER, network="10.255.255.0/24")
    finally:
        unclaim(here.docker_url, OWNER)
    assert found.usable
    assert found.internal_ip is None
    assert "no address in the fleet's network 10.255.255.0/24" in by_subject(found)["network"].text


def test_a_driver_that_hangs_in_a_container_gives_none_of_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def call(
        url: str, method: str, path: str, body: object = None, **_: object
    ) -> tuple[int, bytes]:
        asked.append(f"{method} {path}")
        if path.endswith("/start"):
            raise TimeoutError
        return 204, b""

    monkeypatch.setattr(machine_docker.docker_wire, "call", call)
    trial = try_gpus(f"unix://{tmp_path}", ["GPU-aa", "GPU-bb"])
    assert trial.refused.keys() == {"GPU-aa", "GPU-bb"}
    assert "no container with it was started within 10 s" in trial.refused["GPU-aa"]
    assert len([each for each in asked if each.endswith("/start")]) == 1


@pytest.mark.docker
def test_gpus_are_tried_with_a_real_container(here: Here) -> None:
    trial = try_gpus(here.docker_url, ["GPU-aa", "GPU-bb"])
    assert trial.given == frozenset()
    assert "could not select device driver" in trial.refused["GPU-aa"]
    assert try_gpus(here.docker_url, []) == GpuTrial(frozenset())


def test_amds_gpus_are_given_to_a_container_as_files_and_nvidias_by_their_ids() -> None:
    spec = ContainerSpec("a", {}, script="true", image="b", limits=Limits(gpus=("amd:renderD129",)))
    config = creation(spec, log_cap=1 << 20)["HostConfig"]
    assert [each["PathOnHost"] for each in config["Devices"]] == ["/dev/kfd", "/dev/dri/renderD129"]
    assert "DeviceRequests" not in config
    spec = replace(spec, limits=Limits(gpus=("GPU-aa",)))
    config = creation(spec, log_cap=1 << 20)["HostConfig"]
    assert config["DeviceRequests"] == [{"DeviceIDs": ["GPU-aa"], "Capabilities": [["gpu"]]}]
    assert "Devices" not in config
