"""Runs as text and HTML: one as a card, many as a table. Called by surfaces and `RunCard`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dstack_engine.records.events import Progress
from dstack_engine.records.jobs import Job
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.sightings import Usage
from dstack_engine.records.updates import GatewayView
from dstack_jupyter.rendering.copies import Copy
from dstack_jupyter.rendering.logs import log_html, log_text
from dstack_jupyter.rendering.markup import (
    AMBER,
    BLUE,
    BORDER,
    GREEN,
    MUTED,
    RED,
    Table,
    escape,
    link,
    muted,
    plain,
    section,
    tag,
)
from dstack_jupyter.rendering.offers import place_of
from dstack_jupyter.rendering.quantities import (
    ago_text,
    clock_text,
    counted,
    hourly_text,
    money_text,
    resources_text,
    size_text,
)
from dstack_jupyter.rendering.steps import (
    SIGNS,
    Step,
    StepState,
    sentence_of,
    status_word,
    steps_of,
)
from dstack_jupyter.replicas import ServiceWord, is_service, newest_jobs, standing_of
from dstack_jupyter.terminal import LogScreen

#: Lines of output that a card keeps when it is frozen.
LAST_LINES = 200

_COLOURS = {
    RunStatus.RUNNING: BLUE,
    RunStatus.DONE: GREEN,
    RunStatus.FAILED: RED,
    RunStatus.TERMINATED: AMBER,
    RunStatus.TERMINATING: AMBER,
}
_HEADINGS = ("name", "status", "resources", "price", "cost", "submitted", "reason")
_MARKS = {StepState.DONE: "●", StepState.CURRENT: "◐", StepState.AHEAD: "○", StepState.SKIPPED: "–"}


@dataclass(frozen=True)
class RunCopy(Copy):
    """A task, with the `last` lines it printed on its `screen`."""

    screen: LogScreen | None = None
    progress: Progress | None = None
    usage: Usage | None = None
    last: int = LAST_LINES

    def text(self) -> str:
        """Return the run as a few lines of text, then the last lines it printed."""
        view = self.view
        lines = [f"{SIGNS[view.status]} {plain(view.name)}  {status_word(view)}  {self.clock()}"]
        lines += [f"  {plain(sentence)}" for sentence in (sentence_of(view),) if sentence]
        lines.append("  " + " → ".join(_step_text(step) for step in steps_of(view, self.progress)))
        lines += [f"  {plain(fact)}" for fact in facts_of(view, self.usage)]
        if self.screen is not None and (log := log_text(self.screen, self.last)):
            lines += ["", plain(log)]
        return "\n".join(lines)

    def html(self) -> str:
        """Return the run as a card that stands alone, with the last lines in colour."""
        view, colour = self.view, _COLOURS.get(self.view.status, MUTED)
        chip = tag("span", f"{SIGNS[view.status]} {escape(status_word(view))}", f"color:{colour}")
        parts = [tag("div", escape(sentence)) for sentence in (sentence_of(view),) if sentence]
        parts.append(_steps_html(steps_of(view, self.progress)))
        parts += [tag("div", muted(fact)) for fact in facts_of(view, self.usage, ports=False)]
        parts += [tag("div", port) for port in _ports_html(view.job)]
        if self.screen is not None:
            parts.append(log_html(self.screen, self.last))
        return self.framed(chip, parts)


@dataclass(frozen=True)
class Traffic:
    """What is known of services besides their records: by their runs' ids, and the gateway."""

    reports: Mapping[str, ServiceReport] = field(default_factory=dict)
    gateway: GatewayView = field(default_factory=lambda: GatewayView(None))


def runs_text(views: Sequence[RunView], now: datetime, traffic: Traffic | None = None) -> str:
    """Return the runs as an aligned table."""
    return _table(views, now, traffic).text() if views else "No runs."


def runs_html(views: Sequence[RunView], now: datetime, traffic: Traffic | None = None) -> str:
    """Return the runs as a table with a caption."""
    if not views:
        return section(muted("No runs."))
    return section(_table(views, now, traffic).html(counted(len(views), "run")))


def facts_of(
    view: RunView, usage: Usage | None = None, *, ports: bool = True, tried: bool = True
) -> list[str]:
    """Return what else is known of a run: where it is, its ports, what it uses, what was tried."""
    job = view.job
    facts = [fact for fact in (place_text(job),) if fact]
    if job is not None and ports and not view.finished:
        facts += [f"port {route.container_port} at {route.url}" for route in job.routes]
    if usage is not None and not view.finished:
        facts.append(usage_text(usage, job))
    if job is not None and tried:
        facts += [f"tried {failed.offer}: {failed.why}" for failed in job.tried]
    facts += _nodes_of(view)
    attempts = max((one.attempt for one in view.jobs), default=1) if job is not None else 1
    if attempts > 1:
        facts.append(counted(attempts, "attempt"))
    return facts


def _nodes_of(view: RunView) -> list[str]:
    """Return how each of several nodes stands, and where it is."""
    nodes = newest_jobs(view)
    if is_service(view) or len(nodes) == 1:
        return []
    told = []
    for job in nodes:
        where = job.instance if job.instance is not None else ""
        told.append(" · ".join(filter(None, (f"node {job.node} {job.status}", where, job.waiting))))
    return told


def place_text(job: Job | None) -> str:
    """Return where a job runs and what is there; empty while it has no place."""
    if job is None or job.offer is None:
        return ""
    return f"{place_of(job.offer)} · {resources_text(job.offer.shape)}"


def usage_text(usage: Usage, job: Job | None) -> str:
    """Return what a job uses now: CPUs, memory, GPUs, beside what it may use."""
    held = job.reservation if job else None
    cpus = f" of {held.cpu_limit:g}" if held and held.cpu_limit else ""
    memory = f" of {size_text(held.memory_limit_gb)}" if held and held.memory_limit_gb else ""
    parts = [f"CPU {usage.cpus:.1f}{cpus}", f"memory {size_text(usage.memory_gb)}{memory}"]
    for number, gpu in enumerate(usage.gpus):
        parts.append(f"GPU {number} {gpu.utilization * 100:.0f} % {size_text(gpu.memory_gb)}")
    return " · ".join(parts)


def _table(views: Sequence[RunView], now: datetime, traffic: Traffic | None) -> Table:
    headings: tuple[str, ...] = _HEADINGS
    rows = [_row(view, now) for view in views]
    if any(is_service(view) for view in views):
        headings = (*headings[:2], "replicas", "address", *headings[2:])
        rows = [
            _with_service(row, view, traffic or Traffic())
            for row, view in zip(rows, views, strict=True)
        ]
    return Table(headings, rows, frozenset({"price", "cost"}))


def _with_service(row: tuple[str, ...], view: RunView, traffic: Traffic) -> tuple[str, ...]:
    """Return the row with replicas and address, and as its reason how the service stands."""
    *before, reason = row
    if not is_service(view) or view.finished:
        return (*before[:2], "-", "-", *before[2:], reason)
    standing = standing_of(view, traffic.reports.get(view.run.id))
    if standing.word != ServiceWord.READY:
        reason = f"{standing.word}: {standing.sentence}" if standing.sentence else standing.word
    address = "-" if traffic.gateway.port is None else traffic.gateway.url_of(view.name)
    replicas = f"{standing.ready}/{standing.desired}"
    return (*before[:2], replicas, address, *before[2:], reason)


def _row(view: RunView, now: datetime) -> tuple[str, ...]:
    job = view.job
    return (
        view.name,
        f"{SIGNS[view.status]} {status_word(view)}",
        resources_text(job.offer.shape) if job and job.offer else "-",
        hourly_text(view.price),
        money_text(view.cost(now)),
        ago_text(view.run.submitted_at, now),
        sentence_of(view).removeprefix(view.name).lstrip(": "),
    )


def _step_text(step: Step) -> str:
    words = [
        _MARKS[step.state],
        step.label,
        clock_text(step.at) if step.at else "",
        plain(step.text),
    ]
    return " ".join(word for word in words if word)


def _steps_html(steps: Sequence[Step]) -> str:
    """Return the steps beside each other, each under its piece of the way, as in a live card."""
    cells = "".join(_step_html(step) for step in steps)
    return tag("div", cells, "display:flex;flex-wrap:wrap;gap:4px 2px;margin:8px 0 6px")


def _step_html(step: Step) -> str:
    behind = step.state in (StepState.DONE, StepState.CURRENT)
    mark = tag("span", _MARKS[step.state], f"color:{BLUE if behind else MUTED};font-size:10px")
    label = escape(step.label) if behind else muted(step.label)
    words = " ".join(filter(None, (clock_text(step.at) if step.at else "", plain(step.text))))
    below = tag("div", muted(words), "font-size:12px;font-variant-numeric:tabular-nums")
    line = f"flex:1 1 7em;border-top:2px solid {BLUE if behind else BORDER};padding-top:3px"
    if step.state is StepState.CURRENT:
        label = tag("b", label)
    return tag("div", f"{mark} {label}{below}", line)


def _ports_html(job: Job | None) -> list[str]:
    if job is None or job.finished:
        return []
    return [f"port {route.container_port}: {link(route.url)}" for route in job.routes]
