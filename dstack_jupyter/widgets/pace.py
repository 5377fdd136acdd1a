"""The one thread of a kernel that sends what cards hold back, so that no page is flooded.

Cards ask for it from any thread, as often as they like; it comes at most ten times a second, but
for the first few times: a run's first steps and its first line follow within milliseconds.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

logger = logging.getLogger(__name__)

Deliver = Callable[[], None]

#: Seconds between two deliveries, and between two signs of life.
INTERVAL = 0.1
BEAT = 5.0

#: As many deliveries may come at once after a rest; seconds in which wishes gather even then.
BURST = 5
GATHER = 0.01


class Pace:
    """Calls what was asked for, each once however often it was asked, in a thread of its own."""

    def __init__(self, interval: float = INTERVAL, beat: float = BEAT) -> None:
        """Make a pace; its thread begins with the first wish."""
        self._interval = interval
        self._beat = beat
        self._changed = threading.Condition()
        self._wanted: dict[Deliver, None] = {}
        self._living: dict[Deliver, None] = {}
        self._thread: threading.Thread | None = None

    def request(self, deliver: Deliver) -> None:
        """Call *deliver* soon."""
        with self._changed:
            self._wanted[deliver] = None
            self._begin()

    def keep_alive(self, beat: Deliver) -> None:
        """Call *beat* every few seconds, until it is forgotten."""
        with self._changed:
            self._living[beat] = None
            self._begin()

    def forget(self, *deliveries: Deliver) -> None:
        """Call these no more."""
        with self._changed:
            for delivery in deliveries:
                self._wanted.pop(delivery, None)
                self._living.pop(delivery, None)

    def _begin(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="dstack-pace", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        beat_at = monotonic() + self._beat
        delivered: deque[float] = deque(maxlen=BURST)
        while True:
            with self._changed:
                while not self._wanted and not (self._living and monotonic() >= beat_at):
                    left = max(beat_at - monotonic(), 0.01) if self._living else None
                    self._changed.wait(left)
                calls = list(self._wanted)
                self._wanted.clear()
                if monotonic() >= beat_at:
                    calls += self._living
                    beat_at = monotonic() + self._beat
            for call in calls:
                _call(call)
            now = monotonic()
            rest = delivered[0] + BURST * self._interval - now if len(delivered) == BURST else 0.0
            delivered.append(now)
            _PAUSE.wait(max(rest, min(GATHER, self._interval)))


#: Never set: waiting on it is resting.
_PAUSE = threading.Event()


def _call(deliver: Deliver) -> None:
    try:
        deliver()
    except Exception:
        logger.exception("a card could not be drawn")


#: The kernel's own.
PACE = Pace()
