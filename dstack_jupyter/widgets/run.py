"""The card of one run: live while the run is, and static HTML once it has ended.

Called by the notebook's surface. Everything may be called from any thread, as often as news comes:
what is shown follows at most ten times a second, sent by `widgets.pace`.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import anywidget
import traitlets
from IPython.display import DisplayHandle

from dstack_engine.errors import DstackError
from dstack_engine.records.events import Frame, Progress
from dstack_engine.records.runs import RunView
from dstack_engine.records.sightings import Usage
from dstack_jupyter.rendering.runs import LAST_LINES, run_html, run_text
from dstack_jupyter.rendering.steps import status_word
from dstack_jupyter.widgets.modules import joined, source
from dstack_jupyter.widgets.output import Message, Output
from dstack_jupyter.widgets.pace import PACE, Pace
from dstack_jupyter.widgets.states import milliseconds, run_state

logger = logging.getLogger(__name__)

OnStop = Callable[[bool], None]
#: Lines in the static copy beside a live card, which each display of it carries.
_COPY_LINES = 20


class RunCard(anywidget.AnyWidget):
    """One run in a cell. A `Follower` of the session's watcher; `ended` freezes it."""

    _esm = joined("element.js", "screen.js", "store.js", "logview.js", "theme.js", "run.js")
    _css = source("run.css")
    key = traitlets.Unicode().tag(sync=True)
    #: What the card shows; made by `states.run_state`.
    run = traitlets.Dict().tag(sync=True)

    def __init__(self, view: RunView, *, pace: Pace = PACE) -> None:
        """Make the card of *view*; nothing is shown before `display`."""
        self._lock = threading.RLock()
        self._pace = pace
        self._view = view
        self._progress: Progress | None = None
        self._usage: Usage | None = None
        self._output = Output()
        self._on_stop: list[OnStop] = []
        self._handle: DisplayHandle | None = None
        self._freezing = False
        self._frozen = False
        self._pages = 0  # that have opened this card, reloaded ones counted again
        self._gone = threading.Event()
        super().__init__(key=uuid.uuid4().hex, run=run_state(view, _now()))
        self.on_msg(self._heard)
        if not view.finished:
            pace.keep_alive(self._beat)

    # -- news

    def update(self, view: RunView) -> None:
        """The run or one of its jobs has changed."""
        with self._lock:
            self._view = view
        self._pace.request(self._flush)

    def log(self, frames: Iterable[Frame]) -> None:
        """The run has printed something; frames in order, each once."""
        self._output.take(frames)
        self._pace.request(self._flush)

    def progress(self, progress: Progress) -> None:
        """A job's preparation went on."""
        with self._lock:
            self._progress = progress
        self._pace.request(self._flush)

    def usage(self, usage: Usage) -> None:
        """A job's use was measured."""
        with self._lock:
            self._usage = usage
        self._pace.request(self._flush)

    def ended(self) -> None:
        """The run has ended and all its output was told: the card becomes static."""
        self.freeze()

    def on_stop(self, callback: OnStop) -> None:
        """Call *callback* with whether to abort, when Stop came by the kernel.

        It is called in a thread of its own; what it raises as `DstackError` the card says.
        """
        self._on_stop.append(callback)

    # -- showing

    def display(self) -> DisplayHandle:
        """Show the card as a cell's output; the handle's `display_id` names that output."""
        handle = DisplayHandle()  # type: ignore[no-untyped-call]  # IPython does not type it
        self.attach(handle)  # first, so that a run which ends meanwhile is shown static
        handle.display(self)  # type: ignore[no-untyped-call]
        return handle

    def attach(self, handle: DisplayHandle) -> DisplayHandle:
        """Take an output that shows, or is about to show, this card: `freeze` will replace it."""
        with self._lock:
            self._handle = handle
        return handle

    def freeze(self) -> None:
        """Replace the output by static HTML and let the live card go; soon, and once."""
        with self._lock:
            if self._freezing:
                return
            self._freezing = True
        self._pace.request(self._flush)

    @property
    def is_frozen(self) -> bool:
        """Whether the card has become static."""
        return self._frozen

    def wait_until_frozen(self, timeout: float | None = None) -> bool:
        """Wait until the card is static; return whether it is, after *timeout* seconds at most."""
        return self._gone.wait(timeout)

    def frozen_html(self, last: int = LAST_LINES) -> str:
        """Return the card as HTML that stands alone, with the *last* lines of output in colour."""
        view, progress, usage = self._seen()
        screen = self._output.screen()
        return run_html(view, _now(), screen=screen, progress=progress, usage=usage, last=last)

    def frozen_text(self, last: int = LAST_LINES) -> str:
        """Return the card as text, with the *last* lines of output."""
        view, progress, usage = self._seen()
        screen = self._output.screen()
        return run_text(view, _now(), screen=screen, progress=progress, usage=usage, last=last)

    def frozen_bundle(self, last: int = LAST_LINES) -> dict[str, str]:
        """Return both, as an output that needs no kernel."""
        return {"text/html": self.frozen_html(last), "text/plain": self.frozen_text(last)}

    def __repr__(self) -> str:
        """Return a line for terminals."""
        return f"<run {self._view.name}: {status_word(self._view)}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, object], dict[str, object]]:
        """Return the live card with its static copy; only the copy once the card is frozen."""
        bundle: dict[str, object] = dict(self.frozen_bundle(_COPY_LINES))
        if self._frozen:
            return bundle, {}
        live, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**live, **bundle}, metadata

    # -- in the thread of the pace

    def _flush(self) -> None:
        if self._frozen:
            return
        view, progress, usage = self._seen()
        state = run_state(view, _now(), progress, usage)
        if state != {**self.run, "now": state["now"], "cost": state["cost"]}:
            self.run = state
        if message := self._output.message():
            self._send_output(message)
        if self._output.waits:
            self._pace.request(self._flush)
        elif self._freezing:
            self._become_static()

    def _become_static(self) -> None:
        self._pace.forget(self._beat)
        bundle = self.frozen_bundle()
        with self._lock:
            self._frozen = True
            handle = self._handle
        # Without a handle somebody else shows it, and it cannot be replaced: the live card stays.
        if handle is not None:
            handle.update(bundle, raw=True)  # type: ignore[no-untyped-call]
        # A page that was reloaded does not know the output by its id any more: there the card stays
        # as it ended, for closing it would leave nothing.
        if handle is not None and self._pages <= 1:
            self.close()
            self.__dict__.pop("_repr_mimebundle_", None)  # closing takes it away; the copy stays
        self._gone.set()

    def _beat(self) -> None:
        if not self._frozen:
            self.send({"type": "beat", "now": milliseconds(_now())})

    def _send_output(self, message: Message) -> None:
        self.send(dict(message.content), buffers=[message.payload])

    def _seen(self) -> tuple[RunView, Progress | None, Usage | None]:
        with self._lock:
            return self._view, self._progress, self._usage

    # -- what the page says; in the thread that reads its messages

    def _heard(self, _: object, content: Mapping[str, object], buffers: Sequence[object]) -> None:
        match content.get("type"):
            case "hello":
                self._pages += 1
                self._beat()
                if self._output.sent:
                    self._send_output(self._output.reset())
            case "stop":
                abort = content.get("abort") is True
                threading.Thread(
                    target=self._stop, args=(abort,), name="dstack-stop", daemon=True
                ).start()
            case other:
                logger.debug("a page said %s, which means nothing here", other)

    def _stop(self, abort: bool) -> None:
        try:
            for callback in self._on_stop:
                callback(abort)
        except DstackError as error:
            self.send({"type": "stop-answer", "ok": False, "text": error.render()})
            return
        except Exception as error:
            logger.exception("the run %s could not be stopped", self._view.name)
            self.send({"type": "stop-answer", "ok": False, "text": f"It was not stopped: {error}"})
            return
        self.send({"type": "stop-answer", "ok": True, "text": ""})


def _now() -> datetime:
    return datetime.now(timezone.utc)
