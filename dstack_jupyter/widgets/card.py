"""What the cards of runs share: live while the run is, static HTML once it has ended.

Everything may be called from any thread, as often as news comes: what is shown follows at most ten
times a second, sent by `widgets.pace`. `widgets.run` and `widgets.service` say what is shown.
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
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunView
from dstack_engine.records.sightings import Usage
from dstack_jupyter.rendering.copies import Copy
from dstack_jupyter.widgets.output import Message
from dstack_jupyter.widgets.pace import PACE, Pace
from dstack_jupyter.widgets.states import milliseconds

logger = logging.getLogger(__name__)

OnStop = Callable[[bool], None]
#: Lines in the static copy beside a live card, which each display of it carries.
COPY_LINES = 20


class Card(anywidget.AnyWidget):
    """One run in a cell. A `Follower` of the session's watcher; `ended` freezes it."""

    key = traitlets.Unicode().tag(sync=True)

    def __init__(self, view: RunView, *, pace: Pace = PACE, **state: object) -> None:
        """Make the card of *view* with its first *state*; nothing is shown before `display`."""
        self._lock = threading.RLock()
        self._pace = pace
        self._view = view
        self._on_stop: list[OnStop] = []
        self._handle: DisplayHandle | None = None
        self._freezing = False
        self._frozen = False
        self._pages = 0  # that have opened this card, reloaded ones counted again
        self._gone = threading.Event()
        super().__init__(key=uuid.uuid4().hex, **state)
        self.on_msg(self._heard)
        if not view.finished:
            pace.keep_alive(self._beat)

    # -- what a kind of card says of itself

    def draw(self) -> bool:
        """Send what is new to the pages; return whether more is waiting to be sent."""
        raise NotImplementedError

    def greet(self) -> None:
        """Bring a page that has just been opened to where the others are."""
        raise NotImplementedError

    def hear(self, content: Mapping[str, object]) -> bool:
        """Take what a page says; return whether it means anything here."""
        return False

    def static_copy(self, last: int | None = None) -> Copy:
        """Return the card as it stands, with the *last* lines of output."""
        raise NotImplementedError

    # -- news

    def update(self, view: RunView) -> None:
        """The run or one of its jobs has changed."""
        with self._lock:
            self._view = view
        self.refresh()

    def log(self, frames: Iterable[Frame], log: str = "") -> None:
        """The run has printed something; frames in order, each once."""
        raise NotImplementedError

    def progress(self, progress: Progress) -> None:
        """A job's preparation went on."""

    def usage(self, usage: Usage) -> None:
        """A job's use was measured."""

    def service(self, report: ServiceReport) -> None:
        """The traffic of the service that the run is was measured."""

    def ended(self) -> None:
        """The run has ended and all its output was told: the card becomes static."""
        self.freeze()

    def refresh(self) -> None:
        """Draw soon."""
        self._pace.request(self._flush)

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
        self.refresh()

    def renew_copy(self) -> None:
        """Bring the static copy beside the live card up to date; its pages draw it anew."""
        with self._lock:
            handle = None if self._freezing else self._handle
        if handle is not None:
            handle.update(self._repr_mimebundle_()[0], raw=True)  # type: ignore[no-untyped-call]

    @property
    def is_frozen(self) -> bool:
        """Whether the card has become static."""
        return self._frozen

    def wait_until_frozen(self, timeout: float | None = None) -> bool:
        """Wait until the card is static; return whether it is, after *timeout* seconds at most."""
        return self._gone.wait(timeout)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, object], dict[str, object]]:
        """Return the live card with its static copy; only the copy once the card is frozen."""
        bundle: dict[str, object] = dict(self.static_copy(COPY_LINES).bundle())
        if self._frozen:
            return bundle, {}
        live, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**live, **bundle}, metadata

    # -- in the thread of the pace

    def _flush(self) -> None:
        if self._frozen:
            return
        if self.draw():
            self.refresh()
        elif self._freezing:
            self._become_static()

    def _become_static(self) -> None:
        self._pace.forget(self._beat)
        bundle = self.static_copy().bundle()
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
            self.send({"type": "beat", "now": milliseconds(now())})

    def _send_output(self, message: Message, **more: object) -> None:
        self.send({**message.content, **more}, buffers=[message.payload])

    # -- what the page says; in the thread that reads its messages

    def _heard(self, _: object, content: Mapping[str, object], buffers: Sequence[object]) -> None:
        match content.get("type"):
            case "hello":
                self._pages += 1
                self._beat()
                self.greet()
            case "stop":
                abort = content.get("abort") is True
                threading.Thread(
                    target=self._stop, args=(abort,), name="dstack-stop", daemon=True
                ).start()
            case other:
                if not self.hear(content):
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


def now() -> datetime:
    """Return the time."""
    return datetime.now(timezone.utc)
