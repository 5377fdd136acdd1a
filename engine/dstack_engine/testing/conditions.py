"""What fakes work under: a clock that stands still, and failures arranged beforehand."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from dstack_engine.errors import DstackError

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


class FakeClock:
    """A clock that stands still until it is advanced; call it for the time."""

    def __init__(self, now: datetime = NOON) -> None:
        self._now = now

    def __call__(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> datetime:
        """Let *by* pass; return the time then."""
        self._now += by
        return self._now


class Failures:
    """Errors arranged beforehand: the next calls of a verb raise them, in order."""

    def __init__(self) -> None:
        self._next: dict[str, list[DstackError]] = {}

    def arrange(self, verb: str, *errors: DstackError) -> None:
        """Let the next call of *verb* raise the first of *errors*, the one after it the second."""
        self._next.setdefault(verb, []).extend(errors)

    def meet(self, verb: str) -> None:
        """Raise what was arranged for *verb*, if anything was."""
        if self._next.get(verb):
            raise self._next[verb].pop(0)
