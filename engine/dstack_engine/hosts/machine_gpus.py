"""The GPUs of a machine: what its drivers told the script, card by card.

NVIDIA's are told by `nvidia-smi`, AMD's by the kernel and, for their names, by `amd-smi` or
`rocm-smi`. A GPU that no job can use is left out, with a finding that says why. Used by
`machine_examination`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dstack_engine.hosts.machine_script import Answers
from dstack_engine.records.findings import Finding
from dstack_engine.records.gpu_models import (
    AMD_PREFIX,
    known_capability,
    nominal_memory,
    read_capability,
    short_name,
)
from dstack_engine.records.offers import Gpu

#: An AMD GPU with less memory, in GB, is the part of a processor that draws its screen.
SMALLEST_AMD_GB = 4.0

#: So much of a GPU may be in use, in MiB, by no job at all: a display, the driver itself.
IDLE_MIB = 1024

_NVIDIA_FIELDS = 7

#: The Instinct models by PCI device (pci-ids.ucw.cz, 2025-11), where no tool of AMD's is installed.
_AMD_DEVICES = {
    "0x738c": "MI100",
    "0x7408": "MI250X",
    "0x740c": "MI250X",
    "0x740f": "MI210",
    "0x74a0": "MI300A",
    "0x74a1": "MI300X",
    "0x74a2": "MI308X",
    "0x74a5": "MI325X",
    "0x74b5": "MI300X",
    "0x75a0": "MI350X",
    "0x75a3": "MI355X",
}

_REBOOT = "sudo reboot"
_DRIVER_GUIDE = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"


@dataclass(frozen=True)
class Card:
    """One GPU as its driver told of it."""

    gpu: Gpu
    #: What people call it by on the machine: NVIDIA's index, AMD's file.
    label: str
    driver: str
    used_mib: float = 0.0


@dataclass(frozen=True)
class CardReport:
    """The GPUs that can be used, and what is to be said of the others."""

    cards: tuple[Card, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __add__(self, other: CardReport) -> CardReport:
        return CardReport(self.cards + other.cards, self.findings + other.findings)

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs."""
        return tuple(card.gpu for card in self.cards)


def read_gpus(answers: Answers) -> CardReport:
    """Return the machine's GPUs of all makers."""
    return _nvidia(answers) + _amd(answers)


def in_words(gpus: Sequence[Gpu]) -> str:
    """Return ``8 × H100 (80 GB)``, model by model."""
    kinds = Counter((gpu.name, gpu.memory_gb) for gpu in gpus)
    return ", ".join(f"{count} × {name} ({memory:g} GB)" for (name, memory), count in kinds.items())


# NVIDIA


def _nvidia(answers: Answers) -> CardReport:
    present = len(answers.names("nvidia-ground", "CARD"))
    code, said = answers.code("nvidia"), " ".join(answers.part("nvidia"))
    if code == 127:
        return CardReport(findings=(_no_driver(present, answers),)) if present else CardReport()
    if code is None:
        return CardReport(findings=(_trouble("nvidia-smi does not answer", _REBOOT),))
    if code != 0:
        if "No devices were found" in said and not present:
            return CardReport()
        return CardReport(findings=(_nvidia_failure(answers.why("nvidia")),))
    cards: list[Card] = []
    findings: list[Finding] = []
    for line in answers.part("nvidia"):
        found = _nvidia_card(line)
        if isinstance(found, Card):
            cards.append(found)
            findings += _ecc(line, found)
        else:
            findings.append(found)
    return CardReport(tuple(cards), tuple(findings))


def _nvidia_card(line: str) -> Card | Finding:
    values = [value.strip() for value in line.split(",")]
    if len(values) < _NVIDIA_FIELDS:
        return _trouble(f"nvidia-smi says of one GPU: {line.strip()[:200]}", _REBOOT)
    uuid, full, total, used, mig, driver, index = values[:_NVIDIA_FIELDS]
    name, reported = short_name(full), _number(total)
    if not uuid.startswith("GPU-") or not name or reported is None:
        return _trouble(f"GPU {index} is not offered, nvidia-smi says: {line[:200]}", _REBOOT)
    if mig.lower() == "enabled":
        text = f"GPU {index}, a {name}, is not offered: it is split into parts (MIG)"
        return _trouble(text, f"sudo nvidia-smi -i {index} -mig 0")
    told = values[_NVIDIA_FIELDS] if len(values) > _NVIDIA_FIELDS else ""
    capability = read_capability(told) or known_capability(name)
    gpu = Gpu(name, nominal_memory(name, reported), "nvidia", uuid, capability)
    return Card(gpu, index, driver, _number(used) or 0.0)


def _ecc(line: str, card: Card) -> Iterator[Finding]:
    values = [value.strip() for value in line.split(",")]
    errors = _number(values[_NVIDIA_FIELDS + 1]) if len(values) > _NVIDIA_FIELDS + 1 else None
    if errors:
        text = f"GPU {card.label}, a {card.gpu.name}, has had {errors:.0f} memory errors (ECC)"
        yield _trouble(f"{text} since it was started", f"sudo nvidia-smi -i {card.label} -r")


def _no_driver(present: int, answers: Answers) -> Finding:
    what = "an NVIDIA GPU" if present == 1 else f"{present} NVIDIA GPUs"
    if answers.facts("system").get("ID") == "ubuntu":
        fix = "sudo ubuntu-drivers install --gpgpu && sudo reboot"
    else:
        fix = f"Install NVIDIA's driver: {_DRIVER_GUIDE}"
    them = "it" if present == 1 else "them"
    return _trouble(f"it has {what} and no driver for {them}", fix)


def _nvidia_failure(why: str) -> Finding:
    if "version mismatch" in why:
        text = f"its NVIDIA driver was upgraded and the old one still runs: {why}"
        return _trouble(text, _REBOOT)
    if "couldn't communicate with the NVIDIA driver" in why:
        text = "its NVIDIA driver does not run; it may have to be built anew for this kernel"
        return _trouble(text, "sudo dkms autoinstall && sudo modprobe nvidia")
    if "GPU access blocked by the operating system" in why:
        text = f"Windows does not give its GPU to this user of WSL: {why}"
        return _trouble(text, "wsl --update && wsl --shutdown")
    return _trouble(f"nvidia-smi fails: {why}", _REBOOT)


def foreign_use(
    answers: Answers, cards: Sequence[Card], ours: Collection[str]
) -> tuple[Finding, ...]:
    """Return a finding for each NVIDIA GPU that somebody else's program uses.

    *ours* are the ids of the containers that jobs of ours run in.
    """
    containers = _containers_by_process(answers)
    users: dict[str, list[str]] = {}
    for line in answers.part("nvidia-use"):
        words = [word.strip() for word in line.removeprefix("use ").split(",", 3)]
        if not line.startswith("use ") or len(words) != 4:
            continue
        uuid, process, _, program = words
        # A process that may not be looked at is taken for ours while jobs of ours run there.
        if containers.get(process, "unknown" if ours else "") not in {*ours, "unknown"}:
            users.setdefault(uuid, []).append(f"{program.rpartition('/')[2]} (process {process})")
    return tuple(
        _in_use(card, users.get(card.gpu.uuid or "", ()))
        for card in cards
        if card.gpu.uuid in users or (card.used_mib > IDLE_MIB and not ours)
    )


def _in_use(card: Card, programs: Sequence[str]) -> Finding:
    who = ", ".join(programs[:3]) or "somebody else"
    text = (
        f"GPU {card.label}, a {card.gpu.name}, is in use by {who}: "
        f"{card.used_mib / 1024:.1f} GB of its memory"
    )
    return Finding(False, "gpu use", text, "nvidia-smi")


def _containers_by_process(answers: Answers) -> dict[str, str]:
    """Return the container of each process that uses a GPU, by its control group; "" for none."""
    found: dict[str, str] = {}
    for line in answers.part("nvidia-use"):
        if line.startswith("cgroup "):
            process, _, group = line.removeprefix("cgroup ").strip().partition(" ")
            container = re.search(r"[0-9a-f]{64}", group)
            if container or process not in found:
                found[process] = container[0] if container else ""
    return found


# AMD


def _amd(answers: Answers) -> CardReport:
    told = _amd_facts(answers)
    names = _amd_names(answers)
    cards: list[Card] = []
    for node, facts in told.items():
        total = _number(facts.get("mem_info_vram_total", "")) or 0.0
        memory = nominal_memory("", total / (1 << 20))
        if memory < SMALLEST_AMD_GB:
            continue
        device = facts.get("device", "")
        full = names.get(facts["bus"].lower()) or facts.get("product_name") or ""
        name = _AMD_DEVICES.get(device) or amd_name(full) or f"AMD-{device}"
        used = (_number(facts.get("mem_info_vram_used", "")) or 0.0) / (1 << 20)
        driver = answers.facts("amd").get("DRIVER", "of the kernel")
        cards.append(Card(Gpu(name, memory, "amd", f"{AMD_PREFIX}{node}"), node, driver, used))
    if cards and "KFD" not in answers.facts("amd"):
        text = f"its {len(cards)} AMD GPUs are not offered: /dev/kfd is missing"
        return CardReport(findings=(_trouble(text, "sudo modprobe amdgpu"),))
    return CardReport(tuple(cards))


def _amd_facts(answers: Answers) -> dict[str, dict[str, str]]:
    """Return what the kernel tells of each AMD GPU, by its file."""
    found: dict[str, dict[str, str]] = {}
    for line in answers.part("amd"):
        words = line.split(maxsplit=3)
        if len(words) >= 3 and re.fullmatch(r"renderD\d{1,4}", words[0]):
            facts = found.setdefault(words[0], {"bus": words[1]})
            facts[words[2]] = words[3].strip() if len(words) > 3 else ""
    return found


def _amd_names(answers: Answers) -> dict[str, str]:
    """Return the names that `amd-smi` or `rocm-smi` gives, by address on the bus."""
    text = "\n".join(answers.part("amd-names"))
    start = min((at for mark in "[{" if (at := text.find(mark)) >= 0), default=len(text))
    try:
        told = json.loads(text[start:])
    except ValueError:
        return {}
    names: dict[str, str] = {}
    for card in _amd_entries(told):
        asic, bus = _table(card.get("asic")), _table(card.get("bus"))
        # rocm-smi writes the same word with a large and a small letter in different versions.
        series = card.get("Card Series") or card.get("Card series")
        address = bus.get("bdf") or card.get("PCI Bus")
        names[str(address).lower()] = str(asic.get("market_name") or series or "")
    return names


def _amd_entries(told: object) -> list[dict[str, Any]]:
    """Return one table a card: `amd-smi` makes a list, or one under a key; `rocm-smi` a table."""
    table = _table(told)
    entries: object = table.get("gpu_data", list(table.values())) if table else told
    return [_table(each) for each in entries] if isinstance(entries, list) else []


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def amd_name(full: str) -> str:
    """Return an AMD GPU's name as catalogs write it: ``MI300X``, ``RX7900XT``."""
    inner = re.search(r"\[([^]]+)\]", full)
    name = inner[1] if inner else full
    name = re.sub(r"\b(AMD|Advanced Micro Devices|Instinct|Radeon|Graphics|OAM|VF|HF)\b", " ", name)
    name = name.partition("/")[0]
    return "".join(re.sub(r"[^\w ]", " ", name).split())


def _trouble(text: str, fix: str) -> Finding:
    return Finding(False, "gpus", text, fix)


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,18}(\.\d+)?", text) else None
