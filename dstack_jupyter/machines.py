"""How the machines of fleets stand: a word, a sign and a sentence for each. Pure.

Called by what shows them: `rendering.fleets`, the fleet's card, the terminal, the server's rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dstack_engine.enums import StrEnum
from dstack_engine.records.findings import Finding
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.instances import Instance, InstanceStatus
from dstack_engine.records.runs import RunView
from dstack_jupyter.rendering.quantities import counted, moment_text


class MachineWord(StrEnum):
    """How a machine stands, as people say it."""

    LOOKING = "being looked into"  #: nobody knows yet what it has
    BROKEN = "not usable"  #: looked into, and something must be mended first
    READY = "ready"  #: no run holds any of it
    IN_USE = "in use"  #: a run holds some of it
    SILENT = "does not answer"  #: it did before
    LEAVING = "being let go"
    GONE = "gone"


#: A sign for each, so that it is told by shape as well as by colour.
SIGNS: Mapping[MachineWord, str] = {
    MachineWord.LOOKING: "◔",
    MachineWord.BROKEN: "✗",
    MachineWord.READY: "◇",
    MachineWord.IN_USE: "◆",
    MachineWord.SILENT: "?",
    MachineWord.LEAVING: "◌",
    MachineWord.GONE: "■",
}
#: Those that jobs can be placed on, now or as soon as there is room.
USABLE = frozenset({MachineWord.READY, MachineWord.IN_USE})

_OF_STATUS: Mapping[InstanceStatus, MachineWord] = {
    InstanceStatus.IDLE: MachineWord.READY,
    InstanceStatus.BUSY: MachineWord.IN_USE,
    InstanceStatus.TERMINATING: MachineWord.LEAVING,
    InstanceStatus.TERMINATED: MachineWord.GONE,
}


@dataclass(frozen=True)
class Standing:
    """How one machine stands."""

    word: MachineWord
    #: More than the word says; empty where there is no more.
    sentence: str = ""

    @property
    def sign(self) -> str:
        """Return the sign of its word."""
        return SIGNS[self.word]


def machine_standing(instance: Instance) -> Standing:
    """Return how a machine stands."""
    word = _word(instance)
    if word is MachineWord.SILENT:
        assert instance.unreachable_since is not None
        since = moment_text(instance.unreachable_since)
        why = f": {instance.unreachable_why}" if instance.unreachable_why else ""
        return Standing(word, f"Not since {since}{why}. What runs there is left as it is.")
    if word is MachineWord.BROKEN:
        wrong = [one.subject for one in findings_of(instance) if one.fatal and not one.ok]
        subjects = f" ({', '.join(wrong)})" if wrong else ""
        return Standing(
            word, f"Mend what is marked ✗{subjects}; it is looked into again by itself."
        )
    if word is MachineWord.LEAVING and instance.reason and instance.fleet is not None:
        forced = f"%dstack fleet delete {instance.fleet} -i {instance.number} --force"
        return Standing(word, f"{instance.reason}. If it is gone for good: {forced}")
    return Standing(word)


def _word(instance: Instance) -> MachineWord:
    settled = _OF_STATUS.get(instance.status)
    if settled in (MachineWord.LEAVING, MachineWord.GONE):
        return settled
    if settled is None:
        return MachineWord.LOOKING if instance.examination is None else MachineWord.BROKEN
    return settled if instance.reachable else MachineWord.SILENT


def findings_of(instance: Instance) -> tuple[Finding, ...]:
    """Return what was found when somebody looked into it last; empty before."""
    return () if instance.examination is None else instance.examination.findings


def host_text(instance: Instance) -> str:
    """Return how the machine is reached: ``ubuntu@10.0.0.5``; its type where it is no SSH host."""
    return instance.offer.instance_type if instance.ssh is None else instance.ssh.text


def blocks_text(instance: Instance) -> str:
    """Return into how many parts it is split for several runs; empty where it is not."""
    if instance.blocks == 1:
        return ""
    return "split for several runs" if instance.blocks == "auto" else f"{instance.blocks} blocks"


def is_looked_into(instance: Instance, since: datetime | None = None) -> bool:
    """Tell whether there is nothing to wait for, of a look into the machine after *since*."""
    if instance.status in (InstanceStatus.TERMINATING, InstanceStatus.TERMINATED):
        return True
    found = instance.examination
    return found is not None and (since is None or found.at > since)


def is_usable(instance: Instance) -> bool:
    """Tell whether jobs can be placed on the machine, now or when there is room."""
    return _word(instance) in USABLE


def is_settled(view: FleetView) -> bool:
    """Tell whether nothing of the fleet changes before somebody uses it."""
    if view.fleet.finished:
        return True
    there = [one for one in view.instances if _word(one) is not MachineWord.GONE]
    expected = len(hosts_of(view))
    return len(there) >= expected and all(is_usable(one) for one in there)


def hosts_of(view: FleetView) -> Sequence[object]:
    """Return the hosts that the fleet's configuration names."""
    written = view.fleet.configuration.ssh_config
    return () if written is None else written.hosts


def fleet_sentence(view: FleetView) -> str:
    """Return how many machines the fleet has, and how they stand: ``2 machines: 1 ready``."""
    words = [_word(one) for one in view.instances if _word(one) is not MachineWord.GONE]
    if not words:
        return "no machines" if view.fleet.finished else "no machines yet"
    parts = [f"{words.count(word)} {word}" for word in MachineWord if words.count(word)]
    return f"{counted(len(words), 'machine')}: {', '.join(parts)}"


def runs_on(views: Iterable[RunView]) -> dict[str, list[str]]:
    """Return, by the names of machines, the names of the runs that hold some of each."""
    runs: dict[str, list[str]] = {}
    for view in views:
        for name in {job.instance for job in view.jobs if job.instance and not job.finished}:
            runs.setdefault(name, []).append(view.name)
    return {name: sorted(found) for name, found in runs.items()}
