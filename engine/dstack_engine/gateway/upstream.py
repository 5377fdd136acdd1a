"""Connections to replicas: HTTP/1.1 over asyncio, kept open and used again.

Bytes are handed on as they come, in the call that brings them: no task and no queue stands between
a replica and a client. Used by the proxy, and by Jupyter's proxy to ports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, cast

from dstack_engine.gateway.chunks import BadBody, ChunkScanner
from dstack_engine.gateway.headers import MOST_HEAD, AnswerHead, BadHead, answer_head
from dstack_engine.gateway.peers import watch_for_dead_peer

#: How long a connection may take, in seconds.
CONNECT_TIME = 5.0
#: How long an unused connection is kept, in seconds: less than the 5 s of uvicorn and Node, so that
#: it is not used just when the replica closes it. For what cannot be repeated, shorter still.
IDLE_TIME = 3.0
IDLE_TIME_ONCE = 1.0
#: How many unused connections are kept to one replica.
MOST_IDLE = 256

_IDLE, _HEAD, _LENGTH, _CHUNKED, _UNTIL_CLOSE, _TUNNEL, _CLOSED = range(7)


class Cut(ConnectionError):
    """The replica's connection ended before its answer did."""


class Receiver(Protocol):
    """Who takes a replica's answer, in the calls that bring it."""

    #: Whether `body` is to be given the chunks' contents besides the bytes as they came.
    wants_pieces: bool

    def interim(self, head: AnswerHead) -> None:
        """Take a 1xx answer."""

    def head(self, head: AnswerHead) -> None:
        """Take the head of the answer."""

    def body(self, raw: bytes, pieces: Sequence[bytes]) -> None:
        """Take bytes of the body: *raw* as they came, *pieces* without their framing."""

    def flush(self) -> None:
        """Send on what was taken: no more has come for now."""

    def end(self) -> None:
        """Know that the answer is whole."""

    def cut(self, why: Exception) -> None:
        """Know that no more of the answer comes."""

    def writable(self) -> None:
        """Know that the replica takes bytes again."""


class Connection(asyncio.Protocol):
    """One connection to a replica; it answers one request at a time."""

    __slots__ = (
        "_bodiless",
        "_buffer",
        "_drained",
        "_left",
        "_receiver",
        "_scanner",
        "_state",
        "_transport",
        "address",
        "answered",
        "full",
        "reusable",
        "since",
        "used",
    )

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        #: Whether it has answered a request before: then it may have been closed meanwhile.
        self.used = False
        #: When it became idle, on the loop's clock.
        self.since = 0.0
        #: Whether any byte of the present answer has come.
        self.answered = False
        #: Whether the replica keeps the connection after the present answer.
        self.reusable = False
        #: Whether the replica takes no more bytes for now.
        self.full = False
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._state = _IDLE
        self._buffer = b""
        self._left = 0
        self._bodiless = False
        self._scanner: ChunkScanner | None = None
        self._drained: asyncio.Future[None] | None = None

    @property
    def open(self) -> bool:
        """Return whether it can be used."""
        return self._state != _CLOSED

    def ask(self, data: bytes, receiver: Receiver, *, bodiless: bool) -> None:
        """Send a request's bytes; *receiver* takes the answer, which has no body if *bodiless*."""
        if self._transport is None or self._state != _IDLE:
            raise Cut("the replica closed the connection")
        self._receiver = receiver
        self._bodiless = bodiless
        self._state = _HEAD
        self.answered = False
        self._transport.write(data)

    def write(self, data: bytes) -> None:
        """Send more of the request's body, or of the tunnel."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the replica takes bytes again; raises `Cut` if it never will."""
        if self._state == _CLOSED:
            raise Cut("the replica closed the connection")
        if self.full:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def pause(self) -> None:
        """Read no more for now: the client is slower than the replica."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Close it once everything written has gone."""
        self._receiver = None
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once: the client has gone, so nobody wants the answer."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, and have dead peers noticed."""
        self._transport = cast(asyncio.Transport, transport)
        watch_for_dead_peer(self._transport)

    def data_received(self, data: bytes) -> None:
        """Hand on what the replica sends."""
        receiver = self._receiver
        if receiver is None or self._state == _IDLE:
            self._fail(BadBody("bytes that nobody asked for"))
            return
        self.answered = True
        try:
            if self._state == _HEAD:
                data = self._take_head(data, receiver)
            if data and self._state not in (_HEAD, _IDLE):
                self._take_body(data, receiver)
        except (BadHead, BadBody) as error:
            self._fail(error)
        else:
            receiver.flush()

    def _take_head(self, data: bytes, receiver: Receiver) -> bytes:
        """Take a head if it is whole, and the 1xx before it; return what follows."""
        while self._state == _HEAD and data:
            data = self._take_one_head(data, receiver)
        return data

    def _take_one_head(self, data: bytes, receiver: Receiver) -> bytes:
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MOST_HEAD:
            if len(data) > MOST_HEAD:
                raise BadHead("the answer's head is too long")
            self._buffer = data
            return b""
        self._buffer = b""
        head = answer_head(data[:end], bodiless=self._bodiless)
        rest = data[end + 4 :]
        if head.status == 101:
            self._state = _TUNNEL
            self.reusable = False
            receiver.head(head)
        elif head.status < 200:
            receiver.interim(head)
        else:
            self.reusable = head.keep_alive
            self._begin_body(head)
            receiver.head(head)
            if self._state == _LENGTH and not self._left:
                self._finish(receiver)
        if rest and self._state == _IDLE:
            self._spoil()
        return rest

    def _begin_body(self, head: AnswerHead) -> None:
        if head.chunked:
            self._state = _CHUNKED
            self._scanner = ChunkScanner()
        elif head.length is None:
            self._state = _UNTIL_CLOSE
        else:
            self._state = _LENGTH
            self._left = head.length

    def _take_body(self, data: bytes, receiver: Receiver) -> None:
        if self._state == _LENGTH:
            surplus = len(data) > self._left
            if surplus:
                data = data[: self._left]
            self._left -= len(data)
            receiver.body(data, (data,))
            if not self._left:
                self._finish(receiver)
            if surplus:
                self._spoil()
        elif self._state == _CHUNKED and self._scanner is not None:
            scanner = self._scanner
            taken, pieces = scanner.feed(data, keep=receiver.wants_pieces)
            receiver.body(data if taken == len(data) else data[:taken], pieces)
            if scanner.done:
                self._finish(receiver)
                if taken < len(data):
                    self._spoil()
        else:
            receiver.body(data, (data,))

    def _finish(self, receiver: Receiver) -> None:
        self._state = _IDLE
        self._receiver = None
        self._scanner = None
        self.used = True
        receiver.end()

    def _spoil(self) -> None:
        """Never use it again: bytes came after the answer."""
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        receiver, self._receiver = self._receiver, None
        self._state = _CLOSED
        if self._transport is not None:
            self._transport.abort()
        if receiver is not None:
            receiver.cut(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer: whole if it was to end so, otherwise cut."""
        state, self._state = self._state, _CLOSED
        receiver, self._receiver = self._receiver, None
        self._transport = None
        self.reusable = False
        waiter, self._drained = self._drained, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(Cut("the replica closed the connection"))
        if receiver is None:
            return
        if state == _TUNNEL or (state == _UNTIL_CLOSE and exc is None):
            receiver.end()
        else:
            receiver.cut(Cut("the replica closed the connection"))

    def pause_writing(self) -> None:
        """Know that the replica is slower than the client."""
        self.full = True

    def resume_writing(self) -> None:
        """Go on with the client's bytes."""
        self.full = False
        waiter, self._drained = self._drained, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self._receiver is not None:
            self._receiver.writable()


class Pool:
    """The open connections that answer nothing at the moment; one pool for each event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, address: tuple[str, int], *, repeatable: bool) -> Connection | None:
        """Return an open connection to *address*, if there is one that is fresh enough."""
        waiting = self._idle.get(address)
        oldest = self.loop.time() - (IDLE_TIME if repeatable else IDLE_TIME_ONCE)
        while waiting:
            connection = waiting.pop()
            if not connection.open or not connection.reusable:
                continue
            if connection.since < oldest:
                connection.close()
                continue
            return connection
        return None

    async def connect(self, address: tuple[str, int]) -> Connection:
        """Return a new connection to *address*; raises `OSError`."""
        made = self.loop.create_task(
            self.loop.create_connection(lambda: Connection(address), *address)
        )
        wanted = False
        try:
            await asyncio.wait((made,), timeout=CONNECT_TIME)  # unlike `wait_for`, never deaf
            if not made.done():
                raise TimeoutError(f"no connection within {CONNECT_TIME:.0f} s")
            wanted = True
            return made.result()[1]
        finally:
            if not wanted:
                made.add_done_callback(_close_unwanted)
                made.cancel()

    def give(self, connection: Connection) -> None:
        """Keep *connection* for the next request, if it can be used again."""
        if not connection.reusable:
            connection.close()
            return
        waiting = self._idle.get(connection.address)
        if waiting is None:
            waiting = self._idle[connection.address] = []
        if len(waiting) >= MOST_IDLE:
            connection.close()
            return
        connection.since = self.loop.time()
        waiting.append(connection)
        if self._sweep is None:
            self._sweep = self.loop.call_later(IDLE_TIME, self._close_old)

    def close(self) -> None:
        """Close all that answer nothing; for the end of the process, and of a test."""
        for waiting in self._idle.values():
            for connection in waiting:
                connection.close()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _close_old(self) -> None:
        oldest = self.loop.time() - IDLE_TIME
        self._sweep = None
        for address, waiting in list(self._idle.items()):
            for connection in waiting:
                if connection.since < oldest:
                    connection.close()
            fresh = [one for one in waiting if one.open and one.since >= oldest]
            if fresh:
                self._idle[address] = fresh
            else:
                del self._idle[address]
        if self._idle:
            self._sweep = self.loop.call_later(1.0, self._close_old)


def _close_unwanted(made: asyncio.Task[tuple[asyncio.Transport, Connection]]) -> None:
    """Close a connection that was made though nobody waits for it any longer."""
    if not made.cancelled() and made.exception() is None:
        made.result()[1].close()


_pool: Pool | None = None


def pool() -> Pool:
    """Return the running loop's pool; a process has one loop at a time."""
    global _pool  # asked for twice in a request
    loop = asyncio.get_running_loop()
    found = _pool
    if found is None or found.loop is not loop:
        found = _pool = Pool(loop)
    return found
