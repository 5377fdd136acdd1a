"""What the static copies of tasks and services share: head, clock and frame.

Made in `rendering.runs` and `rendering.services`, for `Run` and the cards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dstack_engine.records.runs import RunView
from dstack_jupyter.rendering.markup import BORDER, escape, muted, section, tag
from dstack_jupyter.rendering.quantities import (
    duration_text,
    hourly_text,
    moment_text,
    money_text,
)


@dataclass(frozen=True)
class Copy(ABC):
    """A run as it stands at `now`, to be shown without a kernel."""

    view: RunView
    now: datetime

    @abstractmethod
    def text(self) -> str:
        """Return it as a few lines of text, then the last lines that were printed."""

    @abstractmethod
    def html(self) -> str:
        """Return it as a card that stands alone, with the last lines in colour."""

    def bundle(self) -> dict[str, str]:
        """Return both, as an output that needs no kernel."""
        return {"text/html": self.html(), "text/plain": self.text()}

    def clock(self) -> str:
        """Return how long it has gone on, what it has cost, and when it ended."""
        view, run = self.view, self.view.run
        end = run.finished_at or (run.since if view.finished else self.now)
        parts = [duration_text(end - run.submitted_at), money_text(view.cost(self.now))]
        if view.price:
            parts.append(hourly_text(view.price))
        if view.finished:
            parts.append(moment_text(end))
        return " · ".join(parts)

    def framed(self, chip: str, parts: Iterable[str]) -> str:
        """Return *parts*, which are HTML as *chip* is, in a frame below name, chip and clock."""
        head = tag("b", escape(self.view.name), "margin-right:10px") + chip
        head += tag("span", muted(self.clock()), "margin-left:12px")
        frame = f"border:1px solid {BORDER};border-radius:6px;padding:10px 14px"
        return section(tag("div", tag("div", head, "font-size:14px") + "".join(parts), frame))
