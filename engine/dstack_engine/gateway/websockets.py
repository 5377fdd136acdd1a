"""WebSockets: once a replica has agreed (101), bytes pass both ways untouched.

No frame is taken apart, so subprotocols, extensions, pings and close codes are the two ends' own
affair, and a message of any size passes in as little memory as a small one.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from dstack_engine.gateway import peers
from dstack_engine.gateway.upstream import Connection


class Uplink:
    """The client's half of a tunnel; the server hands it all bytes that follow the upgrade."""

    __slots__ = ("_connection", "_paused", "_protocol")

    def __init__(self, request: web.BaseRequest, connection: Connection) -> None:
        self._protocol = request.protocol
        self._connection = connection
        self._paused = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Pass *data* on to the replica; read no more while it takes none."""
        self._connection.write(data)
        if self._connection.full and not self._paused:
            self._paused = True
            self._protocol.pause_reading()
            self._look_later()
        return False, b""

    def feed_eof(self) -> None:
        """Close the replica's side once everything has gone there."""
        self._connection.close()

    def resume(self) -> None:
        """Read on: the replica takes bytes again."""
        if self._paused:
            self._paused = False
            self._protocol.resume_reading()

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(peers.LOOK_EVERY, self._look)

    def _look(self) -> None:
        """End the tunnel of a client that has gone while nothing was read from it."""
        if not self._paused:
            return
        if peers.has_gone(self._protocol.transport):
            self._protocol.force_close()
            self._connection.abort()
        else:
            self._look_later()
