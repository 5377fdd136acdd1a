"""A look into a machine that is reached by SSH: what it has, what is wrong, and how to mend it.

Called by `remote` for every examination, with a connection that stands. One script tells of the
system, its GPUs and its clock (`machine_script`); the Docker Engine tells of itself over its
forwarded socket (`machine_docker`); the claim tells whose the machine is (`claims`). Nothing is
changed there but the claim.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Protocol

from dstack_engine.errors import HostUnreachable
from dstack_engine.hosts.claims import HOME_LABEL, Owner, claim
from dstack_engine.hosts.docker_errors import CONNECTION_ERRORS, unreachable
from dstack_engine.hosts.machine_docker import GpuTrial, ask_containers, ask_info, try_gpus
from dstack_engine.hosts.machine_fixes import Fixes, without_sudo
from dstack_engine.hosts.machine_gpus import Card, foreign_use, in_words, read_gpus
from dstack_engine.hosts.machine_script import (
    DOCKER_ROOT,
    PATIENCE,
    Answers,
    clock_ahead,
    read_answers,
    script_text,
)
from dstack_engine.records.findings import Finding
from dstack_engine.records.machines import Examination
from dstack_engine.records.offers import Gpu, MachineShape

#: Seconds for the whole script: its own patience, and the way there and back.
SCRIPT_TIMEOUT = PATIENCE + 8.0

#: A Docker Engine before it cannot give GPUs by their ids (release notes of 19.03).
OLDEST_DOCKER = (19, 3)
#: Less free disk, in GB, does not take the image of a common job.
LEAST_DISK_GB = 10.0
#: Seconds; tokens and certificates are refused by clocks that differ by minutes.
MOST_SKEW = 5.0

_GB = 1 << 30
_NO_ACCESS = "may not use the Docker Engine"
#: Network interfaces that lead to containers and virtual machines only.
_INNER_NETWORKS = ("docker", "br-", "veth", "virbr", "cni", "flannel", "cali", "lxc", "podman")


class MachineLink(Protocol):
    """What an examination needs of a connection that stands."""

    @property
    def docker_url(self) -> str:
        """Where the machine's Docker Engine answers on this computer: ``unix://…``."""

    def run_script(self, text: str, timeout: float) -> str:
        """Run *text* by `sh` on the machine; return what it printed within *timeout* seconds.

        Raises `HostUnreachable`.
        """

    def try_forward(self, address: str, port: int) -> str | None:
        """Tell, in 5 s at most, why a port of the machine cannot be forwarded; None where it can.

        What listens at *address* and *port* is the machine's own SSH server, which speaks first.
        """


@dataclass(frozen=True)
class DockerAnswer:
    """What the Docker Engine told; an *error* instead where it did not answer."""

    info: Mapping[str, Any]
    error: Exception | None = None


def examine_machine(link: MachineLink, owner: Owner, *, network: str | None = None) -> Examination:
    """Look into the machine behind *link* and claim it for *owner*, in 30 s at most.

    *network* is the one that the fleet's machines share, where its author wrote it. Raises
    `HostUnreachable` when the connection is lost meanwhile; all else is in the findings.
    """
    docker = _ask_docker(link.docker_url)
    mark = secrets.token_hex(8)
    root = str(docker.info.get("DockerRootDir") or DOCKER_ROOT)
    began = time.time()
    answers = read_answers(link.run_script(script_text(mark, root), SCRIPT_TIMEOUT), mark)
    ended = time.time()
    look = Look(link, owner, docker, answers, clock_ahead(answers, began, ended), network)
    return look.examination()


def needs_new_login(found: Examination) -> bool:
    """Tell whether a remedy will only be seen by a new connection.

    The groups of a user are those of the moment when he logged in.
    """
    return any(not finding.ok and _NO_ACCESS in finding.text for finding in found.findings)


def _ask_docker(url: str) -> DockerAnswer:
    try:
        return DockerAnswer(ask_info(url))
    except (*CONNECTION_ERRORS, HostUnreachable, ValueError, TypeError) as error:
        return DockerAnswer({}, error)


@dataclass(frozen=True)
class Look:
    """One look: what was told, made into findings."""

    link: MachineLink
    owner: Owner
    docker: DockerAnswer
    answers: Answers
    ahead: float | None
    network: str | None = None

    def examination(self) -> Examination:
        """Return all that was found."""
        found = self._examination()
        if not self.fixes.root:
            return found
        return replace(found, findings=tuple(map(without_sudo, found.findings)))

    def _examination(self) -> Examination:
        system = self.answers.facts("system")
        findings = [_system(self.answers), *self._docker()]
        found = Examination(
            datetime.now(timezone.utc),
            (),
            boot_id=system.get("BOOT"),
            docker=self._info("ServerVersion"),
            internal_ip=internal_address(self.answers, self.network),
            clock_ahead=self.ahead,
        )
        if any(finding.fatal and not finding.ok for finding in findings):
            return replace(found, findings=tuple(findings))
        gpus, about_gpus = self._gpus()
        shape = self._shape(gpus)
        findings += [_power(shape), *about_gpus, _disk(shape, self.fixes)]
        findings += [*self._network(found.internal_ip), *self._forwarding()]
        findings += _clock(self.ahead, self.fixes)
        return replace(found, findings=tuple(findings), shape=shape)

    @property
    def fixes(self) -> Fixes:
        """Return the commands that suit this machine."""
        system = self.answers.facts("system")
        programs = self.answers.names("docker", "HAS")
        return Fixes(system.get("USER", "$USER"), system.get("UID") == "0", frozenset(programs))

    def _info(self, key: str) -> str | None:
        value = self.docker.info.get(key)
        return str(value) if value else None

    def _docker(self) -> Iterator[Finding]:
        if self.docker.error is not None or not self.docker.info:
            yield docker_absence(self.answers, self.docker.error, self.fixes)
            return
        engine = _engine(self.docker.info)
        yield engine
        if engine.fatal:
            return
        try:
            yield claim(self.link.docker_url, self.owner)
        except HostUnreachable as error:
            yield Finding(False, "claim", error.message, self.fixes.restart_docker(), fatal=True)

    def _gpus(self) -> tuple[tuple[Gpu, ...], list[Finding]]:
        report = read_gpus(self.answers)
        nvidia = [card for card in report.cards if card.gpu.vendor == "nvidia"]
        try:
            uuids = [str(card.gpu.uuid) for card in nvidia]
            trial = try_gpus(self.link.docker_url, uuids)
            label = f"{HOME_LABEL}={self.owner.home}"
            ours = ask_containers(self.link.docker_url, label) if nvidia else set[str]()
        except CONNECTION_ERRORS as error:
            raise unreachable(self.link.docker_url, error) from error
        given = tuple(card for card in report.cards if str(card.gpu.uuid) not in trial.refused)
        findings = [
            _gpus_in_words(given),
            *report.findings,
            *gpu_refusals(nvidia, trial, self.answers, self.fixes),
            *foreign_use(self.answers, given, ours),
        ]
        if not given and len(findings) > 1:
            del findings[0]
        return tuple(card.gpu for card in given), findings

    def _shape(self, gpus: tuple[Gpu, ...]) -> MachineShape:
        system, info = self.answers.facts("system"), self.docker.info
        memory = int(info.get("MemTotal") or 0) / _GB
        return MachineShape(
            cpus=int(info.get("NCPU") or 0) or _whole(system.get("CPUS")) or 1,
            memory_gb=round(memory or _whole(system.get("MEMORY_KB")) / (1 << 20), 1),
            disk_gb=free_disk(self.answers),
            gpus=gpus,
        )

    def _network(self, address: str | None) -> Iterator[Finding]:
        if address is not None:
            told = (speed for _, each, speed in _addresses(self.answers) if each == address)
            speed = next((f", {speed / 1000:g} Gbit/s" for speed in told if speed > 0), "")
            yield Finding(True, "network", f"its own address is {address}{speed}")
        elif self.network is not None:
            others = (
                ", ".join(each for _, each, _ in _addresses(self.answers)) or "none that it told"
            )
            text = f"it has no address in the fleet's network {self.network}; it has {others}"
            yield Finding(False, "network", text, "Correct `network`, or write its `internal_ip`.")

    def _forwarding(self) -> Iterator[Finding]:
        words = self.answers.facts("system").get("CONNECTION", "").split()
        if len(words) != 4 or not words[3].isdigit():
            return
        why = self.link.try_forward(words[2], int(words[3]))
        if why is None:
            yield Finding(True, "ports", "its SSH server forwards ports")
            return
        text = f"its SSH server does not forward ports, so no run there can have any: {why}"
        yield Finding(False, "ports", text, self.fixes.allow_forwarding())


# What it is


def _system(answers: Answers) -> Finding:
    facts = answers.facts("system")
    if not facts:
        why = answers.why("folder") if "folder" in answers.lines else "its shell did not run it"
        text = f"the machine was reached, but could not be looked into: {why}"
        return Finding(False, "ssh", text, "df -h /tmp /dev/shm", fatal=True)
    name = facts.get("PRETTY_NAME") or facts.get("ID") or "Linux"
    words = f"{name}, {facts.get('KERNEL', 'Linux')}, {facts.get('ARCH', 'unknown processor')}"
    return Finding(True, "ssh", f"answers as {facts.get('USER', 'somebody')}: {words}")


def _power(shape: MachineShape) -> Finding:
    cpus = "1 CPU" if shape.cpus == 1 else f"{shape.cpus} CPUs"
    return Finding(True, "cpu and memory", f"{cpus}, {shape.memory_gb:g} GB")


def free_disk(answers: Answers) -> float | None:
    """Return what is free, in GB, on the disk of Docker's folder."""
    for line in reversed(answers.part("disk")):
        found = re.search(r" (\d+) +(\d+) +(\d+) +\d+% /", line)
        if found:
            return round(int(found[3]) / (1 << 20), 1)
    return None


def _disk(shape: MachineShape, fixes: Fixes) -> Finding:
    if shape.disk_gb is None:
        return Finding(True, "disk", "what is free is not known")
    text = f"{shape.disk_gb:g} GB are free for images and containers"
    if shape.disk_gb >= LEAST_DISK_GB:
        return Finding(True, "disk", text)
    return Finding(False, "disk", f"only {text}", fixes.free_disk())


def _clock(ahead: float | None, fixes: Fixes) -> Iterator[Finding]:
    if ahead is None:
        return
    if abs(ahead) <= MOST_SKEW:
        yield Finding(True, "clock", "goes with this computer's")
        return
    way = "ahead of" if ahead > 0 else "behind"
    yield Finding(False, "clock", f"is {abs(ahead):.0f} s {way} this computer's", fixes.set_clock())


def internal_address(answers: Answers, network: str | None) -> str | None:
    """Return the address by which machines of the same fleet reach this one.

    That is the one in *network*; where none is written the one that SSH came to, if it is a private
    one, else the private one with the fastest link.
    """
    addresses = _addresses(answers)
    if network is not None:
        within = ipaddress.ip_network(network)
        return next(
            (each for _, each, _ in addresses if ipaddress.ip_address(each) in within), None
        )
    outer = [found for found in addresses if not found[0].startswith(_INNER_NETWORKS)]
    private = [found for found in outer if ipaddress.ip_address(found[1]).is_private]
    reached = answers.facts("system").get("CONNECTION", "").split()[2:3]
    if any(each == reached[0] for _, each, _ in private if reached):
        return reached[0]
    return max(private, key=lambda found: found[2])[1] if private else None


def _addresses(answers: Answers) -> list[tuple[str, str, int]]:
    """Return interface, address and speed in Mbit/s (-1 where it has none)."""
    found = []
    for line in answers.part("network"):
        words = line.split()
        if len(words) < 2 or not _is_address(words[1]):
            continue
        speed = words[2] if len(words) > 2 else "-1"
        found.append((words[0], words[1], int(speed) if speed.isdigit() else -1))
    return found


def _is_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


# Docker


def _engine(info: Mapping[str, Any]) -> Finding:
    version = str(info.get("ServerVersion") or "unknown")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    text = (
        f"Docker Engine {version}, storage driver {info.get('Driver', 'unknown')}, "
        f"cgroup v{info.get('CgroupVersion', '1')}"
    )
    if info.get("OSType") not in (None, "linux"):
        return Finding(False, "docker", f"{text}: it runs no Linux containers", fatal=True)
    if numbers and numbers < OLDEST_DOCKER:
        text = f"{text}: too old; 19.03 is the oldest that gives GPUs by their ids"
        return Finding(False, "docker", text, "curl -fsSL https://get.docker.com | sh", fatal=True)
    return Finding(True, "docker", text)


def docker_absence(answers: Answers, error: Exception | None, fixes: Fixes) -> Finding:
    """Return why the Docker Engine does not answer over its forwarded socket, and the remedy."""
    facts, has = answers.facts("docker"), answers.names("docker", "HAS")
    user = fixes.user
    if "SOCKET" not in facts:
        if "ROOTLESS" in facts:
            text = "only a rootless Docker Engine runs there; the machine's own one is needed"
            return _no_docker(text, fixes.start_docker())
        if not has & {"dockerd", "docker"}:
            instead = "; Podman does not do instead" if "podman" in has else ""
            return _no_docker(f"no Docker Engine is installed{instead}", fixes.install_docker())
        return _no_docker("the Docker Engine does not run", fixes.start_docker())
    if "WRITABLE" not in facts:
        return _no_docker(f"{user} {_NO_ACCESS}", fixes.join())
    if facts.get("PING") == "OK":
        text = "its SSH server does not forward Docker's socket"
        return _no_docker(text, fixes.allow_forwarding())
    why = f" ({error})" if error is not None else ""
    return _no_docker(f"the Docker Engine does not answer{why}", fixes.restart_docker())


def _no_docker(text: str, fix: str) -> Finding:
    return Finding(False, "docker", text, fix, fatal=True)


# GPUs


def _gpus_in_words(cards: Sequence[Card]) -> Finding:
    if not cards:
        return Finding(True, "gpus", "has none")
    drivers = ", ".join(sorted({card.driver for card in cards}))
    return Finding(True, "gpus", f"{in_words([card.gpu for card in cards])}, driver {drivers}")


def gpu_refusals(
    cards: Sequence[Card], trial: GpuTrial, answers: Answers, fixes: Fixes
) -> Iterator[Finding]:
    """Yield why Docker does not give GPUs that the driver tells of; they are not offered then."""
    refused = [card for card in cards if str(card.gpu.uuid) in trial.refused]
    if not refused:
        return
    what = in_words([card.gpu for card in refused])
    whys = {trial.refused[str(card.gpu.uuid)] for card in refused}
    if any("could not select device driver" in why for why in whys):
        installed = bool(answers.names("nvidia-ground", "HAS"))
        lack = "is not told of" if installed else "lacks"
        text = f"{what} not offered: the Docker Engine {lack} the NVIDIA Container Toolkit"
        fix = fixes.configure_toolkit() if installed else fixes.install_toolkit()
        yield Finding(False, "docker gpus", text, fix)
        return
    for card in refused:
        why = trial.refused[str(card.gpu.uuid)].strip().rpartition("\n")[2][:300]
        text = f"GPU {card.label}, a {card.gpu.name}, is not offered: Docker cannot give it: {why}"
        yield Finding(False, "docker gpus", text, fixes.restart_docker())
