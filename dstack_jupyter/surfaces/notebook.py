"""The notebook: cells with widgets that live on after the cell, and the run's card.

A cell without `-y` returns with its table; what is submitted from the table later takes the table's
place. Nothing here is printed from another thread: views change in place, by their display's id.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from time import monotonic
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import DisplayHandle

from dstack_engine.errors import DstackError
from dstack_engine.records.events import Stream
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunView
from dstack_jupyter.commands.table import NOTEBOOK
from dstack_jupyter.fleet_watching import LOOKING, Looked
from dstack_jupyter.gateway import Gateway
from dstack_jupyter.machines import is_settled
from dstack_jupyter.rendering.markup import prose
from dstack_jupyter.replicas import is_service
from dstack_jupyter.run import Run
from dstack_jupyter.session import Session, session
from dstack_jupyter.surfaces.base import Choice, Earlier, Looking, Shown, Surface, Tell
from dstack_jupyter.surfaces.terminal import NEVER, PATIENCE, TerminalSurface, detached
from dstack_jupyter.waiting import Waiting
from dstack_jupyter.widgets.card import Card
from dstack_jupyter.widgets.fleet import FleetCard
from dstack_jupyter.widgets.offers import OffersView
from dstack_jupyter.widgets.run import RunCard
from dstack_jupyter.widgets.service import ServiceCard

#: How long a cell that waited lets its card become static, in seconds.
FREEZING = 3.0
#: Between two drawings of a progress bar, in seconds.
_REDRAW = 0.1


def surface_of(shell: InteractiveShell) -> Surface:
    """Return the surface of *shell*: a notebook's where there is a kernel, else the terminal's."""
    if getattr(shell, "kernel", None) is None:
        return TerminalSurface(session, NOTEBOOK, is_program=False, variables=shell.user_ns)
    return NotebookSurface(session, shell.user_ns)


class NotebookSurface:
    """One cell of a kernel; made anew for every call."""

    program = NOTEBOOK
    is_program = False

    def __init__(self, find_session: Callable[[], Session], namespace: dict[str, Any]) -> None:
        """Make the surface of a kernel whose variables are *namespace*."""
        self._session = find_session
        self._namespace = namespace
        #: Where a progress bar was, to be taken by what is shown next.
        self._place: DisplayHandle | None = None

    @property
    def variables(self) -> Mapping[str, object]:
        """What `$name` as an option's value means."""
        return self._namespace

    def show(self, shown: Shown) -> None:
        """Show HTML where there is some, else plain text."""
        if shown.html is None:
            self.write(shown.text.rstrip("\n") + "\n")
        else:
            self._show_in_place(shown)

    def write(self, text: str) -> None:
        """Write *text* as the cell's output."""
        sys.stdout.write(text)

    def tell(self, sentence: str) -> None:
        """Write *sentence* as the cell's output."""
        self.write(f"{sentence}\n")

    def output(self, stream: Stream, payload: bytes) -> None:
        """Write what a run printed."""
        target = sys.stdout if stream is Stream.STDOUT else sys.stderr
        target.write(payload.decode(errors="replace"))

    @contextmanager
    def progress(self) -> Iterator[Tell]:
        """Draw a bar that goes away at the end."""
        bar = _Bar(self._show_in_place)
        try:
            yield bar.tell
        finally:
            self._place = bar.clear() or self._place

    def confirm(self, question: str) -> bool:
        """Agree: naming the run in a cell is the confirmation."""
        return True

    def choose(self, choice: Choice) -> None:
        """Show the table and return; a click submits, and the card takes the table's place."""
        choice.run.mark_shown()
        table = OffersView(choice.plan, title=choice.title)
        handle = table.attach(self._show_in_place(table))

        def tell(text: str, fraction: float | None) -> None:
            table.tell(_told(text, fraction))

        def submit(offers: Sequence[OfferId]) -> None:
            choice.run.bind(choice.submit(offers, tell))
            card = self._card(choice.run.last_view)
            name = choice.run.name
            table.tell(f"Submitted as {name}; {self.program} attach {name} shows it.")
            # Static in between: a front end hides the output of a widget that closes, and would
            # hide the card with it if the card had come straight into the table's place.
            table.freeze()
            handle.update(card)  # type: ignore[no-untyped-call]
            card.attach(handle)
            self._follow(choice.run.last_view, card, {})

        def cancel() -> None:
            choice.run.withdraw("it was cancelled in the table of its cell")
            table.freeze()

        table.on_submit(submit)
        table.on_cancel(cancel)

    def present(self, run: Run) -> None:
        """Show the run's card; it lives on by itself."""
        self._show_card(run, {})

    def rejoin(self, run: Run, *, earlier: Earlier) -> None:
        """Show the run's card with the end of its output; it lives on by itself."""
        self._show_card(run, earlier)

    def _show_card(self, run: Run, earlier: Earlier) -> Card:
        run.mark_shown()
        view = run.last_view
        card = self._card(view)
        for log, frames in earlier.items():
            card.log(frames, log)
        card.attach(self._show_in_place(card))
        if view.finished and earlier:
            card.freeze()
            return card
        self._follow(view, card, earlier)
        return card

    def _follow(self, view: RunView, card: Card, earlier: Earlier) -> None:
        # What replicas that have ended printed is of the past.
        offsets = {job.container: NEVER for job in view.jobs if job.finished and is_service(view)}
        offsets |= {log: frames[-1].next_offset for log, frames in earlier.items() if frames}
        self._session().watcher().follow(view, card, offset=offsets or None)

    def _card(self, view: RunView) -> Card:
        gateway = Gateway(lambda: self._session().client(start=False))
        card = self._service_card(view, gateway) if is_service(view) else RunCard(view)
        card.on_stop(
            lambda abort: card.update(self._session().client().stop(view.name, abort=abort))
        )
        return card

    def _service_card(self, view: RunView, gateway: Gateway) -> Card:
        card = ServiceCard(view, gateway)
        with contextlib.suppress(DstackError):
            # So that its first copy says how the service stands.
            if not view.finished and (report := self._session().client().service(view.name)):
                card.service(report)
        return card

    def stay(self, run: Run, *, waiting: Waiting | None = None) -> None:
        """Show the run's card and return when it has ended, or *waiting* is over."""
        waiting = waiting or Waiting()
        watcher = self._session().watcher()
        card = self._show_card(run, {})
        watcher.follow(run.last_view, waiting, output=False)
        try:
            waiting.over.wait()
            if waiting.view is None or waiting.view.finished:
                _let_freeze(card)
            else:
                card.renew_copy()
        except KeyboardInterrupt:
            raise detached(self.program, run.name) from None
        finally:
            watcher.forget(waiting)
        if waiting.view is not None:
            run.bind(waiting.view)

    def look(self, looking: Looking) -> FleetView:
        """Show the fleet's card; it lives on by itself, and is static once all is well."""
        card = FleetCard(looking.view)
        card.on_examine(looking.examine)
        card.attach(self._show_in_place(card))
        watcher = self._session().fleets()
        watcher.follow(looking.view, card)
        if not looking.waits:
            return looking.view
        looked = Looked(looking.view, looking.since)
        watcher.follow(looking.view, looked)
        try:
            looked.over.wait(LOOKING)
        finally:
            watcher.forget(looked)
        card.update(looked.view, looked.runs)
        # A notebook that ends with this cell must not miss how it ended.
        if not (is_settled(looked.view) and card.wait_until_frozen(FREEZING)):
            card.renew_copy()
        return looked.view

    @contextmanager
    def telling(self) -> Iterator[Callable[[str], None]]:
        """Show a text that grows in one place, drawn again a few times a second."""
        growing = _Growing(self._show_in_place)
        try:
            yield growing.tell
        finally:
            growing.draw()

    def repeat(self, draw: Callable[[], Shown], changed: Callable[[], bool]) -> None:
        """Draw in one place, again after each change."""
        handle = self._show_in_place(draw())
        while changed():
            handle.update(draw())  # type: ignore[no-untyped-call]

    def assign(self, variable: str, value: object) -> None:
        """Put *value* into a variable of the notebook."""
        self._namespace[variable] = value

    def _show_in_place(self, view: object) -> DisplayHandle:
        handle, self._place = self._place, None
        if handle is None:
            handle = DisplayHandle()  # type: ignore[no-untyped-call]
            handle.display(view)  # type: ignore[no-untyped-call]
        else:
            handle.update(view)  # type: ignore[no-untyped-call]
        return handle


class _Bar:
    """A line of progress in the cell's output, drawn only when something takes a while."""

    def __init__(self, show: Callable[[object], DisplayHandle]) -> None:
        self._show = show
        self._begun = monotonic()
        self._drawn = 0.0
        self._handle: DisplayHandle | None = None

    def tell(self, text: str, fraction: float | None) -> None:
        """Draw *text* and how far it is."""
        now = monotonic()
        if now - self._begun < PATIENCE or now - self._drawn < _REDRAW:
            return
        self._drawn = now
        html = f"<progress {'' if fraction is None else f'value={fraction:.3f} '}></progress>"
        shown = Shown(_told(text, fraction), f"<div>{html} {escape(text)}</div>")
        if self._handle is None:
            self._handle = self._show(shown)
        else:
            self._handle.update(shown)  # type: ignore[no-untyped-call]

    def clear(self) -> DisplayHandle | None:
        """Take the line away; return the place where it was."""
        if self._handle is not None:
            self._handle.update(Shown("", ""))  # type: ignore[no-untyped-call]
        return self._handle


class _Growing:
    """A text that grows. It is shown as text: what a model says is nothing for a page to act on."""

    def __init__(self, show: Callable[[object], DisplayHandle]) -> None:
        self._show = show
        self._handle: DisplayHandle | None = None
        self._text = ""
        self._shown: str | None = None
        self._drawn = 0.0

    def tell(self, text: str) -> None:
        """Let the whole text be *text*."""
        self._text = text
        if monotonic() - self._drawn >= _REDRAW:
            self.draw()

    def draw(self) -> None:
        """Draw what is not shown yet."""
        if self._text == self._shown:
            return
        self._drawn, self._shown = monotonic(), self._text
        shown = Shown(self._text, prose(self._text))
        if self._handle is None:
            self._handle = self._show(shown)
        else:
            self._handle.update(shown)  # type: ignore[no-untyped-call]


def _told(text: str, fraction: float | None) -> str:
    return text if fraction is None else f"{text} ({fraction:.0%})"


def _let_freeze(card: Card) -> None:
    # The card freezes in a thread; a notebook that ends with this cell must not miss it.
    tick = threading.Event()
    until = monotonic() + FREEZING
    while not (card.is_frozen and card.comm is None) and monotonic() < until:
        tick.wait(0.01)
