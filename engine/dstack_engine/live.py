"""Who is to be told now: wakes the event streams when something was saved, printed or measured.

The reconcilers publish, the API's streams subscribe. Nothing is kept here: a stream that is woken
reads records from the store and output from the logs, so a lost wake-up costs time, never data.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dstack_engine.records.events import Progress
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.sightings import Usage


@dataclass(frozen=True)
class News:
    """What was told since the last look: the newest word on each job and service."""

    progress: tuple[Progress, ...] = ()
    #: By the job's id.
    usage: Mapping[str, Usage] = field(default_factory=dict)
    services: tuple[ServiceReport, ...] = ()


@dataclass
class Subscription:
    """One stream's ear; `take` hands over what came since the last call."""

    wake: Callable[[], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _progress: dict[str, Progress] = field(default_factory=dict)
    _usage: dict[str, Usage] = field(default_factory=dict)
    _services: dict[str, ServiceReport] = field(default_factory=dict)

    def take(self) -> News:
        """Return the newest word on each job and service since the last call."""
        with self._lock:
            news = News(
                tuple(self._progress.values()), dict(self._usage), tuple(self._services.values())
            )
            for kept in (self._progress, self._usage, self._services):
                kept.clear()
        return news

    def _note(
        self,
        progress: Progress | None,
        usage: tuple[str, Usage] | None,
        services: Sequence[ServiceReport],
    ) -> None:
        with self._lock:
            if progress is not None:
                self._progress[progress.job] = progress
            if usage is not None:
                self._usage[usage[0]] = usage[1]
            self._services.update((report.run_id, report) for report in services)


class Live:
    """The engine's bell."""

    def __init__(self) -> None:
        """Make a bell that nobody hears yet."""
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []

    def subscribe(self, wake: Callable[[], None]) -> Subscription:
        """Call *wake* (from any thread) whenever there may be something new."""
        subscription = Subscription(wake)
        with self._lock:
            self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop calling; may be called twice."""
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    @property
    def heard(self) -> bool:
        """Tell whether anybody listens: sampling for nobody is not worth its cost."""
        return bool(self._subscriptions)

    def ring(
        self,
        *,
        progress: Progress | None = None,
        usage: tuple[str, Usage] | None = None,
        services: Sequence[ServiceReport] = (),
    ) -> None:
        """Wake every subscriber, with something to say or without."""
        with self._lock:
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription._note(progress, usage, services)
            subscription.wake()
