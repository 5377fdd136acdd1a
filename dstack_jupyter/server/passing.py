"""One request passed on: bytes to a program and bytes back, as they come, both ways at once.

Called by `proxying`. Whoever is slower sets the pace, nothing is kept but what is on its way, and
who goes ends the other side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from tornado import iostream

from dstack_engine.gateway.headers import AnswerHead, RequestHead
from dstack_engine.gateway.upstream import Connection, Cut, pool

#: Bytes of an answer that wait for the browser before the program is not read any more.
ENOUGH = 1 << 18


class Passage:
    """A request on its way: `upload` its body, then read `head` and `pieces` of the answer."""

    wants_pieces = True

    def __init__(self, connection: Connection, head: RequestHead) -> None:
        """Use *connection*, which is new; made by `open_passage`."""
        self._connection = connection
        self._request = head
        self._head: asyncio.Future[AnswerHead] = asyncio.get_running_loop().create_future()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._news = asyncio.Event()
        self._ended = False
        self._trouble: Exception | None = None

    # --- towards the program -----------------------------------------------------------------

    async def upload(self, data: bytes) -> None:
        """Send more of the body; returns when more may come. What nobody takes is dropped."""
        if not data:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self._request.chunked else data
        await self._send(framed)

    async def end_upload(self) -> None:
        """Say that the body is whole."""
        if self._request.chunked:
            await self._send(b"0\r\n\r\n")

    async def _send(self, data: bytes) -> None:
        self._connection.write(data)
        try:
            await self._connection.drain()
        except Cut:
            return  # its answer, or that there is none, says enough

    def abort(self) -> None:
        """Let the program go: nobody wants its answer. May be called twice."""
        self._connection.abort()
        self._end(Cut("the browser has gone"))

    # --- from the program --------------------------------------------------------------------

    async def head(self) -> AnswerHead:
        """Return the answer's head; raise `Cut`, or `BadHead`, where none comes."""
        return await asyncio.shield(self._head)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the answer's body as it comes; raise where it breaks off."""
        while True:
            self._news.clear()
            if self._waiting:
                data = b"".join(self._waiting)
                self._waiting.clear()
                self._size = 0
                yield data
                self._connection.resume()
            elif self._ended:
                break
            else:
                await self._news.wait()
        if self._trouble is not None:
            raise self._trouble

    async def tunnel(self, stream: iostream.IOStream) -> None:
        """Pass bytes both ways between the browser's *stream* and the program, until one goes."""
        upward = asyncio.ensure_future(self._tunnel_up(stream))
        try:
            async for data in self.pieces():
                await stream.write(data)
        except (iostream.StreamClosedError, Cut):
            self._connection.abort()
        finally:
            upward.cancel()
            stream.close()
            self.abort()

    async def _tunnel_up(self, stream: iostream.IOStream) -> None:
        try:
            while True:
                await self._send(await stream.read_bytes(1 << 16, partial=True))
        except iostream.StreamClosedError:
            self._connection.close()
            self._end(None)

    # --- called by the connection ------------------------------------------------------------

    def interim(self, head: AnswerHead) -> None:
        """Take a 1xx answer: it was for us alone."""

    def head_came(self, head: AnswerHead) -> None:
        """Take the head of the answer."""
        if not self._head.done():
            self._head.set_result(head)

    def body(self, raw: bytes, pieces: Sequence[bytes]) -> None:
        """Take bytes of the body, and read no more for now where the browser is slower."""
        self._waiting.extend(pieces)
        self._size += sum(len(piece) for piece in pieces)
        if self._size > ENOUGH:
            self._connection.pause()

    def flush(self) -> None:
        """Know that no more has come for now."""
        self._news.set()

    def end(self) -> None:
        """Know that the answer is whole."""
        self._end(None)

    def cut(self, why: Exception) -> None:
        """Know that no more of the answer comes."""
        self._end(why)

    def writable(self) -> None:
        """Know that the program takes bytes again; `upload` waits for that itself."""

    def _end(self, trouble: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._trouble = trouble
        if not self._head.done():
            self._head.set_exception(trouble or Cut("the program closed the connection"))
            self._head.exception()  # looked at: who went before the answer does not ask for it
        self._news.set()


class _Receiver:
    """The passage as the connection knows it, which calls the answer's head `head`."""

    wants_pieces = True

    def __init__(self, passage: Passage) -> None:
        self.interim = passage.interim
        self.head = passage.head_came
        self.body = passage.body
        self.flush = passage.flush
        self.end = passage.end
        self.cut = passage.cut
        self.writable = passage.writable


async def open_passage(
    address: tuple[str, int], head: RequestHead, target: str, prefix: str
) -> Passage:
    """Connect to the program, send the request's head, and return the passage; raise `OSError`."""
    connection = await pool().connect(address)
    passage = Passage(connection, head)
    bodiless = head.method == "HEAD"
    sent = head.rendered(target, patience=False, prefix=prefix)
    connection.ask(sent, _Receiver(passage), bodiless=bodiless)
    return passage
