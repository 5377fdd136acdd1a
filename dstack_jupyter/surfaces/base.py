"""Where a command shows what it found: the contract of notebook cell and terminal.

Commands do their work once and speak through a `Surface`; only surfaces know whether there are
widgets, a keyboard, or neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from dstack_engine.records.events import Frame, Stream
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.offers import OfferId, Plan
from dstack_engine.records.runs import RunView
from dstack_jupyter.run import Run
from dstack_jupyter.waiting import Waiting

#: Told how far something is: a few words, and 0–1 or None where the whole is not known.
Tell = Callable[[str, float | None], None]

#: The end of what a run has printed so far, by the names of its jobs' logs.
Earlier = Mapping[str, Sequence[Frame]]


@dataclass(frozen=True)
class Shown:
    """Something to show: plain text for terminals and exports, HTML for notebooks."""

    text: str
    html: str | None = None

    def _repr_mimebundle_(self, **_kinds: object) -> dict[str, str]:
        """Return both, for IPython's display."""
        bundle = {"text/plain": self.text}
        return bundle if self.html is None else {**bundle, "text/html": self.html}


@dataclass(frozen=True)
class Choice:
    """A plan that waits for somebody's choice, and what then is done."""

    plan: Plan
    #: Submits the run on the chosen offers (none: any that fits), telling how far its files are
    #: sent; may be called from any thread, raises `DstackError`.
    submit: Callable[[Sequence[OfferId], Tell], RunView]
    #: What the run is called, as far as that is known.
    title: str
    #: Told of the run once it was submitted, or of its refusal.
    run: Run = field(repr=False)


@dataclass(frozen=True)
class Looking:
    """A fleet whose machines are being looked into."""

    view: FleetView
    #: Has them looked into once more, now; raises `DstackError`.
    examine: Callable[[], FleetView]
    #: Whether to return only once each was looked into.
    waits: bool
    #: What was found until then is old; None where anything that was found will do.
    since: datetime | None = None


class Surface(Protocol):
    """One place to show things."""

    @property
    def program(self) -> str:
        """How commands are written here: `%dstack` or `dstack-jupyter`."""

    @property
    def is_program(self) -> bool:
        """Whether this is `dstack-jupyter` itself: it stays with a run, and has an exit status."""

    @property
    def variables(self) -> Mapping[str, object] | None:
        """What `$name` as an option's value means; None where a shell has filled it in already."""

    def show(self, shown: Shown) -> None:
        """Show a table or a card that does not change any more."""

    def write(self, text: str) -> None:
        """Write *text* as it is; it ends its own lines."""

    def tell(self, sentence: str) -> None:
        """Write a sentence about what is done, on a line of its own."""

    def output(self, stream: Stream, payload: bytes) -> None:
        """Write what a run printed, bytes as they are."""

    def progress(self) -> AbstractContextManager[Tell]:
        """Return what tells how far something is; shown only when it takes longer than a second."""

    def confirm(self, question: str) -> bool:
        """Return whether to do what was asked by name; a notebook's cell needs no second word.

        Raises `Refused` where nobody can be asked.
        """

    def choose(self, choice: Choice) -> None:
        """Show the offers and let somebody choose; a notebook returns before anyone has."""

    def present(self, run: Run) -> None:
        """Show a run that was just submitted, live where that can be; returns at once."""

    def rejoin(self, run: Run, *, earlier: Earlier) -> None:
        """Show a run of before: a notebook's card returns at once, a terminal stays with it.

        *earlier* is the end of what it has printed so far.
        """

    def stay(self, run: Run, *, waiting: Waiting | None = None) -> None:
        """Show the run and return when it has ended; an interrupt raises `Detached`.

        With *waiting*, return when that is over.
        """

    def look(self, looking: Looking) -> FleetView:
        """Show a fleet while its machines are looked into; return how it stands then.

        A notebook's card goes on by itself unless that was to be waited for; a terminal waits.
        """

    def telling(self) -> AbstractContextManager[Callable[[str], None]]:
        """Return what shows a text that grows: called with the whole of it again and again."""

    def repeat(self, draw: Callable[[], Shown], changed: Callable[[], bool]) -> None:
        """Draw again in the same place after each *changed* (which waits), until interrupted."""

    def assign(self, variable: str, value: object) -> None:
        """Put *value* into a variable of the notebook."""
