"""The card of one task: its steps, ports, use and output. Called by the notebook's surface."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import traitlets

from dstack_engine.records.events import Frame, Progress, Stream
from dstack_engine.records.runs import RunView
from dstack_engine.records.sightings import Usage
from dstack_jupyter.labels import Labels
from dstack_jupyter.rendering.runs import LAST_LINES, RunCopy
from dstack_jupyter.rendering.steps import status_word
from dstack_jupyter.widgets.card import Card, now
from dstack_jupyter.widgets.modules import joined, source
from dstack_jupyter.widgets.output import Output
from dstack_jupyter.widgets.pace import PACE, Pace
from dstack_jupyter.widgets.states import run_state

_MODULES = (
    *("element.js", "amounts.js", "screen.js", "store.js", "logview.js", "logbar.js"),
    *("theme.js", "stopping.js", "card.js", "run.js"),
)


class RunCard(Card):
    """One task in a cell."""

    _esm = joined(*_MODULES)
    _css = source("run.css")
    #: What the card shows; made by `states.run_state`.
    run = traitlets.Dict().tag(sync=True)

    def __init__(self, view: RunView, *, pace: Pace = PACE) -> None:
        """Make the card of *view*; nothing is shown before `display`."""
        self._progress: Progress | None = None
        self._usage: Usage | None = None
        self._output = Output()
        self._labels = Labels(view)
        super().__init__(view, pace=pace, run=run_state(view, now()))

    def log(self, frames: Iterable[Frame], log: str = "") -> None:
        """The run has printed something; frames in order, each once."""
        self._output.take([self._labelled(frame, log) for frame in frames])
        self.refresh()

    def _labelled(self, frame: Frame, log: str) -> Frame:
        if frame.stream is Stream.CUT:
            return frame
        return replace(frame, payload=self._labels.put(log, frame.payload))

    def progress(self, progress: Progress) -> None:
        """A job's preparation went on."""
        with self._lock:
            self._progress = progress
        self.refresh()

    def usage(self, usage: Usage) -> None:
        """A job's use was measured."""
        with self._lock:
            self._usage = usage
        self.refresh()

    def draw(self) -> bool:
        """Send what is new to the pages; return whether more is waiting to be sent."""
        view, progress, usage = self._seen()
        state = run_state(view, now(), progress, usage)
        if state != {**self.run, "now": state["now"], "cost": state["cost"]}:
            self.run = state
        if message := self._output.message():
            self._send_output(message)
        return self._output.waits

    def greet(self) -> None:
        """Bring a page that has just been opened to where the others are."""
        if self._output.sent:
            self._send_output(self._output.reset())

    def static_copy(self, last: int | None = None) -> RunCopy:
        """Return the card as it stands, with the *last* lines of output."""
        view, progress, usage = self._seen()
        screen, last = self._output.screen(), LAST_LINES if last is None else last
        return RunCopy(view, now(), screen, progress, usage, last)

    def __repr__(self) -> str:
        """Return a line for terminals."""
        return f"<run {self._view.name}: {status_word(self._view)}>"

    def _seen(self) -> tuple[RunView, Progress | None, Usage | None]:
        with self._lock:
            return self._view, self._progress, self._usage
