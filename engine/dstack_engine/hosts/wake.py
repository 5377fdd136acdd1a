"""Wake-ups: a job's supervisor tells the engine that something happened, so that nobody polls.

A datagram on the unix socket `wake.sock` in the engine's home, ``b"<kind> <job's name>"``, where
kind is ``started``, ``output`` or ``exit``. A hint, never the truth: one may be lost (no engine
lives, or it is busy), so whoever listens also looks. Used by the supervisor, which a bare
interpreter runs.
"""

from __future__ import annotations

# The `socket` module takes milliseconds to import, and the supervisor has few.
from _socket import AF_UNIX, SOCK_DGRAM
from _socket import socket as RawSocket

from dstack_engine.unix_sockets import ShortPath

_OUTPUT_SECONDS = 0.01


class WakeSender:
    """Tells what happened to the job *name*; output at most every 10 ms."""

    def __init__(self, path: str, name: str) -> None:
        self._name = name.encode()
        self._socket = RawSocket(AF_UNIX, SOCK_DGRAM)
        self._socket.setblocking(False)
        self._path = path
        self._last_output = 0.0
        #: When a held-back datagram is due (CLOCK_MONOTONIC); 0 when none is.
        self.due = 0.0

    def send(self, kind: bytes) -> None:
        """Send one datagram; nothing happens when nobody listens."""
        try:
            with ShortPath(self._path) as short:
                self._socket.sendto(kind + b" " + self._name, short)
        except OSError:
            return

    def output(self, now: float) -> None:
        """Tell that there is output, now or a little later."""
        if now - self._last_output >= _OUTPUT_SECONDS:
            self._last_output, self.due = now, 0.0
            self.send(b"output")
        else:
            self.due = self._last_output + _OUTPUT_SECONDS

    def flush(self, now: float) -> None:
        """Send what was held back, if it is due."""
        if self.due and now >= self.due:
            self.output(now)
