"""How many requests are let through: `rate_limits` of a service, and the server's own bounds.

A limit lets `rps` through, and `burst` more at once. Of several, the one with the longest prefix
that fits counts, as in dstack. Clients are told apart by address, or by a header's value; those
without the header share one limit, so that leaving it out is no way around.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dstack_engine.gateway.router import plain_path
from dstack_engine.records.publication import PublishedService
from dstack_engine.spec.services import HeaderKey, RateLimit

#: Clients of one limit that are told apart; the one heard of longest ago is forgotten first.
MOST_CLIENTS = 10_000
#: The longest value of a header by which clients are told apart, in characters.
MOST_KEY = 256

#: Bounds of a request's head: the longest line and header (bytes), and how many headers.
MOST_LINE = 16 * 1024
MOST_FIELD = 16 * 1024
MOST_HEADERS = 128
#: How long a new connection may take to its first request, in seconds.
FIRST_REQUEST_TIME = 30.0
#: How long a connection may stay without a request (or with half of one), in seconds.
IDLE_TIME = 75.0
#: How long the rest of a refused body is read, so that the client sees the answer, in seconds.
LINGERING_TIME = 5.0


@dataclass(slots=True)
class _Bucket:
    """What one client may still ask at once, as it was at a moment."""

    left: float
    at: float


class _Limit:
    """One `RateLimit`, counting."""

    def __init__(self, told: RateLimit) -> None:
        self.prefix = told.prefix
        self._rps = float(told.rps)
        self._most = float(told.burst + 1)
        self._header = told.key.header if isinstance(told.key, HeaderKey) else None
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait(self, remote: str, headers: Mapping[str, str], now: float) -> float:
        """Count a request; return 0, or how long (s) it comes too early."""
        key = remote if self._header is None else headers.get(self._header, "")[:MOST_KEY]
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MOST_CLIENTS:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(self._most, now)
        else:
            self._buckets.move_to_end(key)
            bucket.left = min(self._most, bucket.left + (now - bucket.at) * self._rps)
            bucket.at = now
        if bucket.left < 1 - 1e-9:
            return (1 - bucket.left) / self._rps
        bucket.left -= 1
        return 0.0


class RateLimiter:
    """The limits of all services; those of an unchanged service go on counting."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits: dict[str, tuple[str, tuple[RateLimit, ...], list[_Limit]]] = {}

    def wait(
        self, told: PublishedService, target: str, remote: str, headers: Mapping[str, str]
    ) -> float:
        """Count a request for *target*; return 0 if it is let through, or the seconds to wait."""
        path = plain_path(target)
        for limit in self._of(told):
            if path.startswith(limit.prefix):
                return limit.wait(remote, headers, self._clock())
        return 0.0

    def keep(self, runs: Mapping[str, object]) -> None:
        """Forget the limits of services that are not among *runs*."""
        for run in [run for run in self._limits if run not in runs]:
            del self._limits[run]

    def _of(self, told: PublishedService) -> list[_Limit]:
        known = self._limits.get(told.run)
        if known is not None and known[0] == told.run_id and known[1] == told.rate_limits:
            return known[2]
        limits = [_Limit(each) for each in told.rate_limits]
        limits.sort(key=lambda limit: len(limit.prefix), reverse=True)
        self._limits[told.run] = (told.run_id, told.rate_limits, limits)
        return limits
