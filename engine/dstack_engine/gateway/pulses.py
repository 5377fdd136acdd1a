"""When each worker's event loop turned last, in memory that the gateway's processes share.

The workers beat, the first process looks: a worker that is alive and does nothing, say because an
author's template never ends, would otherwise hang for ever.
"""

from __future__ import annotations

import mmap
import struct
from time import monotonic

_TIME = struct.Struct("d")


class Pulses:
    """One pulse for each worker; made before they are forked."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._memory = mmap.mmap(-1, _TIME.size * workers)
        self.forgive()

    def beat(self, worker: int) -> None:
        """Note that *worker* lives."""
        _TIME.pack_into(self._memory, worker * _TIME.size, monotonic())

    def age(self, worker: int) -> float:
        """Return the seconds since its last beat."""
        (beaten,) = _TIME.unpack_from(self._memory, worker * _TIME.size)
        return float(monotonic() - beaten)

    def forgive(self) -> None:
        """Begin anew with all of them."""
        for worker in range(self._workers):
            self.beat(worker)
