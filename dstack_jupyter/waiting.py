"""A follower to wait with, until a run is over or has come far enough. For `Run` and surfaces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from dstack_engine.records.events import Frame, Progress
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunView
from dstack_engine.records.sightings import Usage

#: Tells, from a run and the traffic of the service that it may be, whether to wait no longer.
Enough = Callable[[RunView, ServiceReport | None], bool]


class Waiting:
    """A follower that only knows whether its run is over, or has come as far as was asked."""

    def __init__(self, enough: Enough | None = None) -> None:
        """Make one; `over` is set at the end, or as soon as it is *enough*."""
        self.over = threading.Event()
        self.view: RunView | None = None
        self.report: ServiceReport | None = None
        self._enough = enough

    def update(self, view: RunView) -> None:
        """Keep the newest record."""
        self.view = view
        self._look()

    def service(self, report: ServiceReport) -> None:
        """Keep the newest report."""
        self.report = report
        self._look()

    def _look(self) -> None:
        known, enough = self.view, self._enough
        if known is not None and enough is not None and enough(known, self.report):
            self.over.set()

    def service_if_known(self, report: ServiceReport | None) -> None:
        """Keep what was asked for meanwhile."""
        if report is not None:
            self.service(report)

    def log(self, frames: Sequence[Frame], log: str) -> None:
        """Output is not of interest."""

    def progress(self, progress: Progress) -> None:
        """Nor is preparation."""

    def usage(self, usage: Usage) -> None:
        """Nor is usage."""

    def ended(self) -> None:
        """Let `wait` return."""
        self.over.set()
