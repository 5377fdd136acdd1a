"""The other ends of connections: whether they are still there, and do what they announced.

Used for both ends: clients in `app`, `proxy` and `websockets`, replicas in `upstream`.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web  # who only has replicas, as Jupyter's proxy, needs none of it

#: How long a client may send nothing of a body that it announced, in seconds.
BODY_TIME = 60.0
#: How often that, and whether the client is still there, is looked at, in seconds.
LOOK_EVERY = 5.0
#: Seconds after which a silent connection is asked for a sign of life, between two of these
#: questions, and how many stay unanswered before it counts as dead.
KEEPALIVE = (15, 5, 4)
#: States of a TCP connection whose other end has closed (linux/tcp_states.h): CLOSE, CLOSE_WAIT.
_GONE = frozenset((7, 8))


def watch_for_dead_peer(transport: asyncio.BaseTransport) -> None:
    """Have the system notice, within about 35 s, that the other computer has gone."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    idle, interval, count = KEEPALIVE
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", idle),
        ("TCP_KEEPINTVL", interval),
        ("TCP_KEEPCNT", count),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def has_gone(transport: asyncio.BaseTransport | None) -> bool:
    """Return whether the other end has closed, though we read nothing from it just now."""
    if transport is None or transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    state: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] in _GONE


class BodyFault(Exception):
    """A request whose body does not come as it was announced; the text is for the client."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Patience:
    """Ends the wait for a body of which nothing comes, and for a client that has gone unseen.

    Who reads the body then gets a `BodyFault`.
    """

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._loop = asyncio.get_running_loop()
        #: Whether the client is waited for, rather than the replica.
        self.reading = True
        self._come = -1
        self._since = 0.0
        self._timer = self._loop.call_later(LOOK_EVERY, self._look)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        content, now = self._request.content, self._loop.time()
        paused = not self.reading or self._request.protocol._reading_paused
        if content.total_bytes != self._come or paused:
            self._come, self._since = content.total_bytes, now
        if paused and has_gone(self._request.transport):
            self._request.protocol.force_close()  # reading is paused, so nothing else tells it
        elif not paused and content.is_eof():
            return  # all has come
        elif now - self._since > BODY_TIME:
            text = f"Nothing of the announced body came for {BODY_TIME:.0f} s."
            content.set_exception(BodyFault(408, "body_timeout", text))
        else:
            self._timer = self._loop.call_later(LOOK_EVERY, self._look)
