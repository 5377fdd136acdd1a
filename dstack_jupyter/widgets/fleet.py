"""The card of a fleet: its machines, live while they are being looked into. Called by surfaces.

A `FleetFollower`: when it is over, the card becomes static HTML, as a saved notebook has it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anywidget
import traitlets
from IPython.display import DisplayHandle

from dstack_engine.errors import DstackError
from dstack_engine.records.fleets import FleetView
from dstack_jupyter.machines import fleet_sentence, is_settled, machine_standing
from dstack_jupyter.rendering.fleets import FleetCopy, Runs
from dstack_jupyter.widgets.modules import joined, source
from dstack_jupyter.widgets.pace import PACE, Pace
from dstack_jupyter.widgets.states import fleet_state

logger = logging.getLogger(__name__)


class FleetCard(anywidget.AnyWidget):
    """One fleet in a cell."""

    _esm = joined("element.js", "theme.js", "fleet.js")
    _css = source("fleet.css")
    #: What the card shows; made by `states.fleet_state`.
    fleet = traitlets.Dict().tag(sync=True)
    #: Why nothing came of a wish; empty while there is nothing to say.
    message = traitlets.Unicode().tag(sync=True)

    def __init__(self, view: FleetView, *, pace: Pace = PACE) -> None:
        """Make the card of *view*; nothing is shown before `display`."""
        self._lock = threading.RLock()
        self._pace = pace
        self._view = view
        self._runs: Runs = {}
        self._on_examine: list[Callable[[], object]] = []
        self._handle: DisplayHandle | None = None
        self._freezing = False
        self._frozen = threading.Event()
        self._pages = 0  # that have opened this card, reloaded ones counted again
        self._copied = _words(self._view)
        super().__init__(fleet=fleet_state(view, {}))
        self.on_msg(self._heard)

    def on_examine(self, callback: Callable[[], object]) -> None:
        """Call *callback*, in a thread of its own, when somebody wants the machines looked into."""
        self._on_examine.append(callback)

    # -- news

    def update(self, view: FleetView, runs: Runs) -> None:
        """The fleet or one of its machines has changed."""
        with self._lock:
            self._view, self._runs = view, runs
        self._pace.request(self._flush)

    def ended(self) -> None:
        """Nothing follows: the card becomes static."""
        self.freeze()

    # -- showing

    def display(self) -> DisplayHandle:
        """Show the card as a cell's output."""
        handle = DisplayHandle()  # type: ignore[no-untyped-call]  # IPython does not type it
        self.attach(handle)
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
            self._freezing = True
        self._pace.request(self._flush)

    def renew_copy(self) -> None:
        """Bring the static copy beside the live card up to date, where more than a detail changed.

        A notebook may be saved meanwhile; its pages draw the card anew for that.
        """
        with self._lock:
            words, handle = _words(self._view), self._handle
            if handle is None or self._freezing or words == self._copied:
                return
            self._copied = words
            handle.update(self._repr_mimebundle_()[0], raw=True)  # type: ignore[no-untyped-call]

    def wait_until_frozen(self, timeout: float | None = None) -> bool:
        """Wait until the card is static; return whether it is, after *timeout* seconds at most."""
        return self._frozen.wait(timeout)

    def static_copy(self) -> FleetCopy:
        """Return the card as it stands, with how to see more of it."""
        with self._lock:
            name, final = self._view.fleet.name, self._view.fleet.finished
            note = "" if final else f"%dstack fleet show {name} shows how it stands now."
            return FleetCopy(self._view, self._runs, "" if is_settled(self._view) else note)

    def __repr__(self) -> str:
        """Return a line for terminals."""
        return f"<fleet {self._view.fleet.name}: {fleet_sentence(self._view)}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, object], dict[str, object]]:
        """Return the live card with its static copy; only the copy once the card is frozen."""
        copy: dict[str, object] = dict(self.static_copy().bundle())
        if self._frozen.is_set():
            return copy, {}
        live, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**live, **copy}, metadata

    # -- in the thread of the pace

    def _flush(self) -> None:
        if self._frozen.is_set():
            return
        with self._lock:
            state, freezing, handle = (
                fleet_state(self._view, self._runs),
                self._freezing,
                self._handle,
            )
        if state != self.fleet:
            self.fleet = state
        if not freezing:
            self.renew_copy()
            return
        bundle = self.static_copy().bundle()
        if handle is not None:
            handle.update(bundle, raw=True)  # type: ignore[no-untyped-call]
        # A page that was reloaded does not know the output by its id any more: there the card stays
        # as it ended, for closing it would leave nothing.
        if handle is not None and self._pages <= 1:
            self.close()
            self.__dict__.pop("_repr_mimebundle_", None)  # closing takes it away; the copy stays
        self._frozen.set()

    # -- what the page says; in the thread that reads its messages

    def _heard(self, _: object, content: Mapping[str, object], buffers: Sequence[object]) -> None:
        match content.get("type"):
            case "hello":
                self._pages += 1
            case "examine":
                threading.Thread(target=self._examine, name="dstack-examine", daemon=True).start()
            case other:
                logger.debug("a page said %s, which means nothing here", other)

    def _examine(self) -> None:
        try:
            for callback in self._on_examine:
                callback()
        except DstackError as error:
            self.message = error.render()
            return
        except Exception as error:
            logger.exception("the fleet %s could not be looked into", self._view.fleet.name)
            self.message = f"It was not looked into: {error}"
            return
        self.message = ""


def _words(view: FleetView) -> list[str]:
    return [str(machine_standing(one).word) for one in view.instances]
