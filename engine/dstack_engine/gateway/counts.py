"""How much a service is asked: arrivals, requests under way, time to the first byte.

Every service has one `Counts`; the proxy opens a `Visit` for each request and closes it. A visit
costs a microsecond or two, whatever the traffic. Memory does not grow: running totals are noted
four times a second for five minutes, and times to the first byte go into buckets.
"""

from __future__ import annotations

import math
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

from dstack_engine.records.publication import Load
from dstack_engine.spec.services import WINDOWS

#: Tells seconds that only ever grow.
Clock = Callable[[], float]

#: Notes of the totals a second: what a window's beginning is rounded to, 0.4 % of the shortest.
_NOTES = 4
#: How many notes are kept: the longest window, and the one that is being written.
_KEPT = max(WINDOWS) * _NOTES + 2
#: Requests a second are told over so many seconds.
RPS_WINDOW = 10
#: How often percentiles are counted anew, at most; seconds.
PERCENTILES_EVERY = 0.5

#: Buckets of time: the first ends at 0.1 ms, each is 5 % longer than the one before, and the last
#: begins beyond half an hour. A percentile is right within 2.5 %.
_LEAST = 1e-4
_GROWTH = math.log(1.05)
_BUCKETS = 344
#: Seconds of one slice of the buckets, and slices that are kept: the last minute.
_SLICE = 10.0
_SLICES = 6


class Visit:
    """One request's life: opened when it arrives, closed when it is answered, cut or refused."""

    __slots__ = ("_begun", "_closed", "_counts", "arrived")

    def __init__(self, counts: Counts, arrived: float) -> None:
        self._counts = counts
        #: When it arrived, by the clock of the counts (seconds).
        self.arrived = arrived
        self._begun = False
        self._closed = False

    def first_byte(self) -> None:
        """Note that the answer's first byte has come; only the first call counts."""
        if not self._begun:
            self._begun = True
            self._counts.took(self.arrived)

    def close(self, *, failed: bool = False) -> None:
        """Note the end; *failed*: answered with 5xx, or cut. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._counts.leave(failed)


class Counts:
    """The traffic of one service."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        now = clock()
        #: Requests held or being answered now.
        self.under_way = 0
        #: Requests answered since the beginning, and those of them that failed.
        self.requests = 0
        self.errors = 0
        self._arrivals = 0
        self._area = 0.0  # request-seconds up to `_last`
        self._last = now
        self._note = int(now * _NOTES)
        # What the totals were when a note's time began; at `note % _KEPT`.
        self._arrivals_at = array("q", bytes(8 * _KEPT))
        self._under_way_at = array("q", bytes(8 * _KEPT))
        self._area_at = array("d", bytes(8 * _KEPT))
        self._times = Times(clock)
        self._percentiles: tuple[float | None, float | None] = None, None
        self._percentiles_until = now

    def arrive(self) -> Visit:
        """Count an arrival and return its visit."""
        now = self._advance()
        self.under_way += 1
        self._arrivals += 1
        return Visit(self, now)

    def leave(self, failed: bool) -> None:
        """Count an end; called by the visit, once."""
        self._advance()
        self.under_way -= 1
        self.requests += 1
        if failed:
            self.errors += 1

    def took(self, arrived: float) -> None:
        """Count a first byte that comes now; called by the visit, once."""
        self._times.add(self._clock() - arrived)

    def loads(self) -> tuple[Load, ...]:
        """Return the load over each window."""
        now = self._advance()
        return tuple(self._load(window, now) for window in WINDOWS)

    def rps(self) -> float:
        """Return the requests that arrived in a second, averaged over the last ten."""
        since = self._since(RPS_WINDOW, self._advance())
        return (self._arrivals - self._arrivals_at[since]) / RPS_WINDOW

    def percentiles(self) -> tuple[float | None, float | None]:
        """Return the times to the first byte (s) that a half and 95 % of the last minute's kept.

        Half a second old at most: reports that come in quick succession do not count them anew.
        """
        if self._clock() >= self._percentiles_until:
            self._percentiles_until = self._clock() + PERCENTILES_EVERY
            p50, p95 = self._times.percentiles((0.5, 0.95))
            self._percentiles = p50, p95
        return self._percentiles

    def _load(self, window: int, now: float) -> Load:
        since = self._since(window, now)
        return Load(
            window,
            arrivals=self._arrivals - self._arrivals_at[since],
            carried=self._under_way_at[since],
            concurrency=round((self._area - self._area_at[since]) / window, 6),
        )

    def _since(self, window: int, now: float) -> int:
        # One rounding for all three, so that no request is lost or counted twice between them.
        return math.ceil((now - window) * _NOTES - 0.5) % _KEPT

    def _advance(self) -> float:
        """Bring the totals up to now; return now."""
        now = self._clock()
        note = int(now * _NOTES)
        if note != self._note:
            self._turn(note)
        self._area += self.under_way * (now - self._last)
        self._last = now
        return now

    def _turn(self, note: int) -> None:
        """Write the notes up to *note*: nothing has changed since the last one."""
        for each in range(max(self._note + 1, note - _KEPT + 1), note + 1):
            at = each % _KEPT
            self._arrivals_at[at] = self._arrivals
            self._under_way_at[at] = self.under_way
            self._area_at[at] = self._area + self.under_way * (each / _NOTES - self._last)
        self._note = note


class Times:
    """Times of the last minute, in buckets."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._slices: dict[int, array[int]] = {}

    def add(self, seconds: float) -> None:
        """Count one."""
        number = int(self._clock() / _SLICE)
        buckets = self._slices.get(number)
        if buckets is None:
            buckets = self._open(number)
        buckets[_bucket(seconds)] += 1

    def percentiles(self, shares: Sequence[float]) -> list[float | None]:
        """Return for each share (0 to 1) the time (s) that so many kept; None without any."""
        newest = int(self._clock() / _SLICE)
        recent = [each for number, each in self._slices.items() if number > newest - _SLICES]
        reached = list(accumulate(map(sum, zip(*recent, strict=True))))
        if not reached or not reached[-1]:
            return [None] * len(shares)
        wanted = [max(math.ceil(reached[-1] * share), 1) for share in shares]
        return [_middle(bisect_left(reached, each)) for each in wanted]

    def _open(self, number: int) -> array[int]:
        for old in [each for each in self._slices if each <= number - _SLICES]:
            del self._slices[old]
        return self._slices.setdefault(number, array("q", bytes(8 * _BUCKETS)))


def _bucket(seconds: float) -> int:
    if seconds <= _LEAST:
        return 0
    return min(_BUCKETS - 1, 1 + int(math.log(seconds / _LEAST) / _GROWTH))


def _middle(bucket: int) -> float:
    return _LEAST * math.exp((bucket - 0.5) * _GROWTH)
