"""The offers table: somebody chooses one, several or any, sees why others were refused, submits.

Called by the notebook's surface. A choice comes from the page in the kernel's message thread; what
follows from it runs in a thread of its own, so that neither the page nor the kernel waits.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anywidget
import traitlets
from IPython.display import DisplayHandle

from dstack_engine.enums import StrEnum
from dstack_engine.errors import DstackError
from dstack_engine.records.offers import OfferId, Plan
from dstack_jupyter.rendering.markup import escape, section, tag
from dstack_jupyter.rendering.offers import (
    offers_html,
    offers_text,
    refusal_lines,
    refused_title,
    summary_of,
)
from dstack_jupyter.widgets.modules import joined, source
from dstack_jupyter.widgets.states import offer_states

logger = logging.getLogger(__name__)

OnSubmit = Callable[[tuple[OfferId, ...]], None]
OnCancel = Callable[[], None]


class ChoiceState(StrEnum):
    """How a choice stands."""

    CHOOSING = "choosing"  #: nobody has chosen yet
    SUBMITTED = "submitted"  #: chosen; nothing can be changed any more
    CANCELLED = "cancelled"  #: nobody will
    FAILED = "failed"  #: the submission was refused, as the message says; may be tried again


class OffersView(anywidget.AnyWidget):
    """A plan in a cell, to choose from. `submit` and `cancel` do what the page's buttons do."""

    _esm = joined("element.js", "theme.js", "offers.js")
    _css = source("offers.css")
    title = traitlets.Unicode().tag(sync=True)
    offers = traitlets.List(traitlets.Dict()).tag(sync=True)
    summary = traitlets.Unicode().tag(sync=True)
    remarks = traitlets.List(traitlets.Unicode()).tag(sync=True)
    refused_title = traitlets.Unicode().tag(sync=True)
    refusals = traitlets.List(traitlets.Unicode()).tag(sync=True)
    #: Ids of the offers chosen, in the table's order; empty means any that fits.
    selected = traitlets.List(traitlets.Unicode()).tag(sync=True)
    state = traitlets.Unicode(str(ChoiceState.CHOOSING)).tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)

    def __init__(self, plan: Plan, *, title: str = "the run") -> None:
        """Make the table of *plan*; *title* names what will be submitted."""
        self._plan = plan
        self._lock = threading.Lock()
        self._on_submit: list[OnSubmit] = []
        self._on_cancel: list[OnCancel] = []
        self._handle: DisplayHandle | None = None
        self._pages = 0  # that have opened this table, reloaded ones counted again
        refused = plan.total_refused or plan.refusals
        super().__init__(
            title=title,
            offers=offer_states(plan),
            summary=summary_of(plan),
            remarks=list(plan.remarks),
            refused_title=refused_title(plan) if refused else "",
            refusals=refusal_lines(plan),
        )
        self.on_msg(self._heard)

    def on_submit(self, callback: OnSubmit) -> None:
        """Call *callback* with the ids chosen, in the order to try; none means any that fits.

        What it raises is shown in the table, and the choice may then be made again.
        """
        self._on_submit.append(callback)

    def on_cancel(self, callback: OnCancel) -> None:
        """Call *callback* when nobody will choose."""
        self._on_cancel.append(callback)

    def submit(self, ids: Sequence[str] = ()) -> bool:
        """Submit on the offers *ids*, or on any that fits; return whether that was done.

        Does nothing when it was submitted or cancelled before.
        """
        chosen = tuple(offer.id for offer in self._plan.offers if offer.id in set(ids))
        if (ids and not chosen) or not self._plan.offers:
            return False
        if not self._move_to(ChoiceState.SUBMITTED, f"Submitting {self.title} …"):
            return False
        self.selected = list(chosen)
        return self._call(lambda: [callback(chosen) for callback in self._on_submit])

    def cancel(self) -> bool:
        """Submit nothing; return whether there was still a choice."""
        if not self._move_to(ChoiceState.CANCELLED, "Cancelled: nothing was submitted."):
            return False
        return self._call(lambda: [callback() for callback in self._on_cancel])

    def fail(self, message: str) -> None:
        """Say why it could not be submitted, and let somebody choose again."""
        with self._lock:
            self.state, self.message = str(ChoiceState.FAILED), message

    def tell(self, message: str) -> None:
        """Say how far the submission is."""
        self.message = message

    # -- showing

    def display(self) -> DisplayHandle:
        """Show the table as a cell's output; a card may replace it by the handle."""
        handle = DisplayHandle()  # type: ignore[no-untyped-call]  # IPython does not type it
        self.attach(handle)
        handle.display(self)  # type: ignore[no-untyped-call]
        return handle

    def attach(self, handle: DisplayHandle) -> DisplayHandle:
        """Take an output that shows, or is about to show, this table."""
        self._handle = handle
        return handle

    def freeze(self) -> None:
        """Replace the output by static HTML and let the live table go."""
        if self._handle is None:
            return
        self._handle.update(self.frozen_bundle(), raw=True)  # type: ignore[no-untyped-call]
        # A page that was reloaded does not know the output by its id any more: there the table
        # stays with its last message, for closing it would leave nothing.
        if self._pages > 1:
            return
        self.close()
        self.__dict__.pop("_repr_mimebundle_", None)  # closing takes it away, and the copy stays

    def frozen_html(self) -> str:
        """Return the table as HTML that stands alone."""
        message = tag("div", escape(self.message), "font-weight:600") if self.message else ""
        return offers_html(self._plan) + (section(message) if message else "")

    def frozen_text(self) -> str:
        """Return the table as text."""
        text = offers_text(self._plan)
        return f"{text}\n\n{self.message}" if self.message else text

    def frozen_bundle(self) -> dict[str, str]:
        """Return both, as an output that needs no kernel."""
        return {"text/html": self.frozen_html(), "text/plain": self.frozen_text()}

    def __repr__(self) -> str:
        """Return a line for terminals."""
        return f"<offers for {self.title}: {len(self._plan.offers)}, {self.state}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, object], dict[str, object]]:
        """Return the live table with its static copy."""
        if self.comm is None:
            return dict(self.frozen_bundle()), {}
        live, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        return {**live, **self.frozen_bundle()}, metadata

    # -- what the page says

    def _heard(self, _: object, content: Mapping[str, object], buffers: Sequence[object]) -> None:
        match content.get("type"):
            case "hello":
                self._pages += 1
            case "submit":
                ids = content.get("ids")
                chosen = [str(one) for one in ids] if isinstance(ids, list) else []
                self._start(lambda: self.submit(chosen))
            case "cancel":
                self._start(self.cancel)
            case other:
                logger.debug("a page said %s, which means nothing here", other)

    def _start(self, action: Callable[[], bool]) -> None:
        threading.Thread(target=action, name="dstack-offers", daemon=True).start()

    def _move_to(self, state: ChoiceState, message: str) -> bool:
        with self._lock:
            if self.state not in (ChoiceState.CHOOSING, ChoiceState.FAILED):
                return False
            self.state, self.message = str(state), message
            return True

    def _call(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except DstackError as error:
            self.fail(error.render())
            return False
        except Exception as error:
            logger.exception("%s could not be submitted", self.title)
            self.fail(f"It was not submitted: {type(error).__name__}: {error}")
            return False
        return True
