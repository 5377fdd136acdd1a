"""Fleets as text and HTML: one as a card with its machines and checks, many as a table.

Called by commands, surfaces and `FleetCard`, whose static copy is made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dstack_engine.records.findings import Finding
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.instances import Instance
from dstack_jupyter.machines import (
    MachineWord,
    Standing,
    blocks_text,
    findings_of,
    fleet_sentence,
    host_text,
    machine_standing,
)
from dstack_jupyter.rendering.markup import (
    AMBER,
    BLUE,
    BORDER,
    CODE_FONT,
    GREEN,
    MUTED,
    RED,
    Table,
    escape,
    muted,
    plain,
    section,
    tag,
)
from dstack_jupyter.rendering.quantities import counted, resources_text

#: Colours of the words; what has none is muted.
_COLOURS = {
    MachineWord.LOOKING: BLUE,
    MachineWord.READY: GREEN,
    MachineWord.IN_USE: BLUE,
    MachineWord.BROKEN: RED,
    MachineWord.SILENT: AMBER,
    MachineWord.LEAVING: AMBER,
}
_HEADINGS = ("fleet", "machine", "host", "state", "resources", "blocks", "runs")

#: The runs on each machine, by its name.
Runs = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class FleetCopy:
    """A fleet as it stands, to be shown without a kernel."""

    view: FleetView
    runs: Runs = field(default_factory=dict)
    #: What happens next, or how to see it again; shown last.
    note: str = ""

    def text(self) -> str:
        """Return a line for the fleet, and for each machine its checks below it."""
        lines = [f"fleet {plain(self.view.fleet.name)}  {fleet_sentence(self.view)}"]
        for instance in self.view.instances:
            lines += [f"  {line}" for line in machine_lines(instance, self.runs)]
        return "\n".join([*lines, self.note] if self.note else lines)

    def html(self) -> str:
        """Return a card that stands alone, with a part for each machine."""
        head = tag("b", escape(self.view.fleet.name), "margin-right:10px")
        head += tag("span", escape(fleet_sentence(self.view)))
        parts = [tag("div", head, "font-size:14px")]
        parts += [_machine_html(one, self.runs) for one in self.view.instances]
        if self.note:
            parts.append(tag("div", muted(self.note), "padding-top:6px"))
        frame = f"border:1px solid {BORDER};border-radius:6px;padding:10px 14px"
        return section(tag("div", "".join(parts), frame))

    def bundle(self) -> dict[str, str]:
        """Return both, as an output that needs no kernel."""
        return {"text/html": self.html(), "text/plain": self.text()}


def machine_lines(instance: Instance, runs: Runs) -> list[str]:
    """Return one machine as lines of text: how it stands, what it has, and every check."""
    standing = machine_standing(instance)
    lines = [
        f"{standing.sign} {plain(instance.name)}  {plain(host_text(instance))}  {standing.word}"
    ]
    lines += [f"    {plain(fact)}" for fact in machine_facts(instance, standing, runs)]
    for finding in findings_of(instance):
        lines.append(f"    {mark_of(finding)} {plain(finding.subject)}: {plain(finding.text)}")
        if finding.fix and not finding.ok:
            lines.append(f"        fix: {plain(finding.fix)}")
    return lines


def machine_facts(instance: Instance, standing: Standing, runs: Runs) -> list[str]:
    """Return what is known of a machine besides its checks: a sentence, what it has, its runs."""
    shape = None if instance.examination is None else instance.examination.shape
    has = [resources_text(shape)] if shape is not None else []
    if blocks := blocks_text(instance):
        has.append(blocks)
    if on_it := runs.get(instance.name):
        has.append(f"runs {', '.join(on_it)}")
    return [fact for fact in (standing.sentence, " · ".join(has)) if fact]


def mark_of(finding: Finding) -> str:
    """Return the sign of a check: well, in the way, or only worth knowing."""
    if finding.ok:
        return "✓"
    return "✗" if finding.fatal else "!"


def fleets_text(views: Sequence[FleetView], runs: Runs) -> str:
    """Return the fleets as an aligned table with a row for each machine."""
    return _table(views, runs).text() if views else "No fleets."


def fleets_html(views: Sequence[FleetView], runs: Runs) -> str:
    """Return the fleets as a table with a caption."""
    if not views:
        return section(muted("No fleets."))
    return section(_table(views, runs).html(counted(len(views), "fleet")))


def _table(views: Sequence[FleetView], runs: Runs) -> Table:
    rows: list[Sequence[str]] = []
    for view in views:
        if not view.instances:
            rows.append((view.fleet.name, "-", "-", str(view.fleet.status), "-", "-", "-"))
        rows += [_row(view.fleet.name, one, runs) for one in view.instances]
    return Table(_HEADINGS, rows)


def _row(fleet: str, instance: Instance, runs: Runs) -> Sequence[str]:
    standing = machine_standing(instance)
    shape = None if instance.examination is None else instance.examination.shape
    return (
        fleet,
        instance.name,
        host_text(instance),
        f"{standing.sign} {standing.word}",
        "-" if shape is None else resources_text(shape),
        str(instance.blocks),
        ", ".join(runs.get(instance.name, ())) or "-",
    )


def _machine_html(instance: Instance, runs: Runs) -> str:
    standing = machine_standing(instance)
    colour = _COLOURS.get(standing.word, MUTED)
    head = tag("b", escape(instance.name), "margin-right:8px")
    head += tag("span", muted(host_text(instance)), "margin-right:12px")
    head += tag("span", f"{standing.sign} {escape(standing.word)}", f"color:{colour}")
    parts = [tag("div", head)]
    parts += [tag("div", muted(fact)) for fact in machine_facts(instance, standing, runs)]
    if found := findings_of(instance):
        items = "".join(_check_html(finding) for finding in found)
        parts.append(tag("ul", items, "list-style:none;margin:2px 0 0;padding:0 0 0 14px"))
    return tag(
        "div", "".join(parts), f"border-top:1px solid {BORDER};margin-top:8px;padding-top:6px"
    )


def _check_html(finding: Finding) -> str:
    colour = GREEN if finding.ok else RED if finding.fatal else AMBER
    words = "well" if finding.ok else "in the way" if finding.fatal else "worth knowing"
    text = tag("span", mark_of(finding), f"color:{colour};font-weight:600", title=words)
    text += f" {tag('b', escape(finding.subject))}: {escape(finding.text)}"
    if finding.fix and not finding.ok:
        code = tag("code", escape(finding.fix), f"font-family:{CODE_FONT};white-space:pre-wrap")
        text += tag("div", f"fix: {code}", "padding-left:16px;user-select:text")
    return tag("li", text, "padding:1px 0;overflow-wrap:anywhere")
