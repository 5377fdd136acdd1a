"""Services and models as text and HTML: one as a card, the models as a table.

Called by surfaces, `Run` and the service's card, so that a live card and its frozen copy agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunView
from dstack_engine.records.updates import GatewayView, ModelView
from dstack_engine.spec.services import ServedModel
from dstack_jupyter.rendering.copies import Copy
from dstack_jupyter.rendering.logs import log_html, log_text
from dstack_jupyter.rendering.markup import (
    AMBER,
    BLUE,
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
from dstack_jupyter.rendering.quantities import counted, duration_text, seconds_text
from dstack_jupyter.rendering.runs import place_text
from dstack_jupyter.rendering.steps import SIGNS, sentence_of
from dstack_jupyter.replicas import (
    Replica,
    ReplicaWord,
    ServiceWord,
    Standing,
    replicas_of,
    standing_of,
)
from dstack_jupyter.terminal import LogScreen

#: Lines of output that a card keeps of each replica when it is frozen.
LAST_LINES = 100

#: A sign for each word, so that it is told by shape as well as by word and colour.
SERVICE_SIGNS = {
    ServiceWord.READY: "●",
    ServiceWord.STARTING: "◔",
    ServiceWord.UPDATING: "◑",
    ServiceWord.ASLEEP: "☾",
    ServiceWord.FAILING: "✕",
    ServiceWord.STOPPING: "◌",
    ServiceWord.ABORTING: "◌",
}
REPLICA_SIGNS = {
    ReplicaWord.WAITING: "○",
    ReplicaWord.PREPARING: "◔",
    ReplicaWord.STARTING: "◑",
    ReplicaWord.READY: "●",
    ReplicaWord.EJECTED: "⚠",
    ReplicaWord.DRAINING: "◌",
    ReplicaWord.STOPPING: "◌",
    ReplicaWord.RESTING: "✕",
}
_COLOURS = {
    ServiceWord.READY: GREEN,
    ServiceWord.STARTING: BLUE,
    ServiceWord.UPDATING: BLUE,
    ServiceWord.FAILING: RED,
    ServiceWord.STOPPING: AMBER,
    ServiceWord.ABORTING: AMBER,
    "failed": RED,
    "terminated": AMBER,
}
_REPLICA_HEADINGS = ("replica", "state", "in flight", "requests", "errors", "where", "note")
_NUMBERS = frozenset({"replica", "in flight", "requests", "errors"})
_MODEL_HEADINGS = (
    "model",
    "services",
    "ready",
    "requests",
    "errors",
    "prompt tokens",
    "answer tokens",
    "first token",
)


@dataclass(frozen=True)
class ServiceCopy(Copy):
    """A service, with the `last` lines that its replicas printed on their `screens`."""

    report: ServiceReport | None
    gateway: GatewayView
    screens: Sequence[tuple[str, LogScreen]] = ()
    last: int = LAST_LINES

    def text(self) -> str:
        """Return the service as a few lines of text, then the last lines of each replica."""
        view, standing = self.view, standing_of(self.view, self.report)
        name = f"{sign_of(view, standing)} {plain(view.name)}"
        lines = [f"{name}  {standing.word}  {self.clock()}"]
        lines += [f"  {plain(sentence)}" for sentence in _sentences(view, standing)]
        lines += [f"  {label}: {address}" for label, address in addresses_of(view, self.gateway)]
        if traffic := traffic_text(self.report, over=view.finished):
            lines.append(f"  {traffic}")
        if rows := replicas_of(view, self.report):
            table = _replicas(rows, self.now).text()
            lines += ["", *(f"  {line}" for line in table.splitlines())]
        for label, screen in self.screens:
            if log := log_text(screen, self.last):
                lines += ["", f"{plain(label)}:", plain(log)]
        return "\n".join(lines)

    def html(self) -> str:
        """Return the service as a card that stands alone, with what its replicas printed last."""
        view, standing = self.view, standing_of(self.view, self.report)
        style = f"color:{_COLOURS.get(standing.word, MUTED)};font-weight:600"
        chip = tag("span", f"{sign_of(view, standing)} {escape(standing.word)}", style)
        parts = [tag("div", escape(sentence)) for sentence in _sentences(view, standing)]
        parts += [
            tag("div", muted(f"{label}: ") + (link(url) if label == "address" else escape(url)))
            for label, url in addresses_of(view, self.gateway)
        ]
        if traffic := traffic_text(self.report, over=view.finished):
            parts.append(tag("div", escape(traffic), "font-variant-numeric:tabular-nums"))
        if rows := replicas_of(view, self.report):
            parts.append(_replicas(rows, self.now).html("Replicas"))
        for label, screen in self.screens:
            if log := log_html(screen, self.last):
                parts.append(tag("div", muted(label), "margin-top:6px") + log)
        return self.framed(chip, parts)


def sign_of(view: RunView, standing: Standing) -> str:
    """Return the sign of a service's word."""
    if isinstance(standing.word, ServiceWord):
        return SERVICE_SIGNS[standing.word]
    return SIGNS[view.status]


def addresses_of(view: RunView, gateway: GatewayView) -> list[tuple[str, str]]:
    """Return where the service is reached, each address with what it is; none once it ended."""
    if view.finished or gateway.port is None:
        return []
    found = [
        ("address", gateway.url_of(view.name)),
        ("for programs", gateway.path_url_of(view.name)),
    ]
    if (model := model_of(view)) is not None:
        found.append((f"model {model.name} (OpenAI)", gateway.models_url))
    return found


def model_of(view: RunView) -> ServedModel | None:
    """Return the language model that the service serves, if it names one."""
    return getattr(view.run.configuration, "model", None)


def needs_token(view: RunView) -> bool:
    """Tell whether requests to the service need the user's token."""
    return bool(getattr(view.run.configuration, "auth", True))


def traffic_text(report: ServiceReport | None, *, over: bool = False) -> str:
    """Return the service's traffic in a line, its sums alone once it is *over*.

    Empty while nothing is known of it.
    """
    if report is None:
        return ""
    sums = [counted(report.requests, "request")]
    if report.errors:
        sums.append(counted(report.errors, "error"))
    if over:
        return f"It was sent {' · '.join(sums)}."
    parts = [f"{rate_text(report.rps)} requests/s"]
    if report.p50 is not None:
        parts.append(f"p50 {seconds_text(report.p50)}")
    if report.p95 is not None:
        parts.append(f"p95 {seconds_text(report.p95)}")
    parts.append(f"{report.in_flight:,} in flight")
    if report.held:
        parts.append(f"{report.held:,} held for a replica")
    return " · ".join([*parts, *sums])


def rate_text(rate: float) -> str:
    """Return a rate with as many digits as say something: ``0.3``, ``12``, ``1,204``."""
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"


def replica_cells(row: Replica, now: datetime) -> tuple[str, ...]:
    """Return one row of the table of replicas."""
    seen = row.report
    note = row.note
    if row.until is not None:
        left = max((row.until - now).total_seconds(), 0.0)
        again = f"starts again in {duration_text(left)}" if left >= 1 else "starts again now"
        note = f"{note}; {again}" if note else again
    return (
        str(row.number),
        f"{REPLICA_SIGNS[row.word]} {row.word}",
        f"{seen.in_flight:,}" if seen else "-",
        f"{seen.requests:,}" if seen else "-",
        f"{seen.errors:,}" if seen else "-",
        place_text(row.job) or "-",
        note,
    )


def models_text(models: Sequence[ModelView]) -> str:
    """Return the models as an aligned table."""
    return _models(models).text() if models else _NO_MODELS


def models_html(models: Sequence[ModelView]) -> str:
    """Return the models as a table with a caption."""
    if not models:
        return section(muted(_NO_MODELS))
    return section(_models(models).html(counted(len(models), "model")))


_NO_MODELS = "No models: no service that runs says `model:`."


def _models(models: Sequence[ModelView]) -> Table:
    return Table(
        _MODEL_HEADINGS,
        [_model_cells(model) for model in models],
        frozenset(_MODEL_HEADINGS) - {"model", "services"},
    )


def _model_cells(model: ModelView) -> tuple[str, ...]:
    usage = model.usage
    requests = sum(one.requests for one in usage)
    waited = sum(one.first_token_seconds for one in usage)
    uncounted = sum(one.uncounted for one in usage)
    answers = f"{sum(one.completion_tokens for one in usage):,}"
    return (
        model.name,
        ", ".join(model.runs),
        str(model.ready_replicas),
        f"{requests:,}",
        f"{sum(one.errors for one in usage):,}",
        f"{sum(one.prompt_tokens for one in usage):,}",
        f"{answers} ({uncounted:,} not counted)" if uncounted else answers,
        seconds_text(waited / requests) if requests and waited else "-",
    )


def _replicas(rows: Sequence[Replica], now: datetime) -> Table:
    return Table(_REPLICA_HEADINGS, [replica_cells(row, now) for row in rows], _NUMBERS)


def _sentences(view: RunView, standing: Standing) -> list[str]:
    if view.finished:
        return [sentence_of(view)] if sentence_of(view) else []
    return [standing.sentence] if standing.sentence else []
