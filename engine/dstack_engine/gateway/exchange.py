"""A question of the gateway's own to a replica, with the same choice, hold and second try.

For adapters, which translate a client's request (`tgi`); what passes untouched goes by `proxy`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from multidict import CIMultiDict, CIMultiDictProxy

from dstack_engine.gateway.counts import Visit
from dstack_engine.gateway.headers import AnswerHead, BadHead
from dstack_engine.gateway.holding import OnWait
from dstack_engine.gateway.reach import IDEMPOTENT, UNWELL, reach
from dstack_engine.gateway.replicas import Replica
from dstack_engine.gateway.table import Service
from dstack_engine.gateway.upstream import Connection, Cut, pool

#: Bytes of an answer that an adapter has not read yet.
MOST_UNREAD = 1 << 20


class Exchange:
    """A replica's answer to a question of our own; made by `exchange`."""

    wants_pieces = True

    def __init__(self, connection: Connection, visit: Visit) -> None:
        self.status = 0
        self.headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
        self.done = False
        self.why: Exception | None = None
        self._connection = connection
        self._visit = visit
        self._unread: list[bytes] = []
        self._size = 0
        self._paused = False
        self._news = asyncio.Event()

    async def begun(self) -> None:
        """Return when the head is here; raises `Cut` or `BadHead` if none comes."""
        while not self.status and not self.done:
            self._news.clear()
            await self._news.wait()
        if not self.status and self.why is not None:
            raise self.why

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises `Cut` or `BadBody` if it is not whole."""
        while True:
            while self._unread:
                piece = self._unread.pop(0)
                self._size -= len(piece)
                if self._paused and self._size < MOST_UNREAD // 2:
                    self._paused = False
                    self._connection.resume()
                yield piece
            if self.done:
                if self.why is not None:
                    raise self.why
                return
            self._news.clear()
            await self._news.wait()

    def interim(self, head: AnswerHead) -> None:
        """Pass over a 1xx."""

    def head(self, head: AnswerHead) -> None:
        """Take the head."""
        if head.status == 101:
            raise BadHead("an upgrade that nobody asked for")
        self._visit.first_byte()
        self.headers = CIMultiDictProxy(CIMultiDict(head.pairs()))
        self.status = head.status
        self._news.set()

    def body(self, raw: bytes, pieces: Sequence[bytes]) -> None:
        """Keep bytes of the body until they are read."""
        self._unread += [piece for piece in pieces if piece]
        self._size += sum(map(len, pieces))
        if self._size > MOST_UNREAD and not self._paused:
            self._paused = True
            self._connection.pause()

    def flush(self) -> None:
        """Wake who reads."""
        self._news.set()

    def end(self) -> None:
        """Note that the answer is whole."""
        self.done = True
        self._news.set()

    def cut(self, why: Exception) -> None:
        """Note that no more comes."""
        self.why = why
        self.done = True
        self._news.set()

    def writable(self) -> None:
        """Do nothing: everything was sent at once."""


@asynccontextmanager
async def exchange(
    service: Service,
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    visit: Visit,
    on_wait: OnWait | None = None,
) -> AsyncIterator[Exchange]:
    """Ask a replica of *service*, as `forward` does, and give its answer to an adapter.

    *headers* are sent besides `Host` and the length. Raises `NoReplica`, `OSError` (of which `Cut`
    is one) when none can be reached, `BadHead` when it answers nonsense. Leaving early cuts the
    answer.
    """
    avoid: list[Replica] = []
    for last in (False, True):
        replica, connection = await reach(
            service, visit, avoid, on_wait, repeatable=method in IDEMPOTENT
        )
        used = connection.used
        answer = Exchange(connection, visit)
        whole = unwell = False
        try:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
            start = f"{method} {target} HTTP/1.1\r\nHost: {replica.host}:{replica.port}\r\n{lines}"
            data = f"{start}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body
            try:
                connection.ask(data, answer, bodiless=False)
                await answer.begun()
            except Cut:
                unwell = not used
                if last or method not in IDEMPOTENT:
                    raise
                if unwell:
                    avoid.append(replica)
                continue
            yield answer
            whole = answer.done and answer.why is None
            unwell = answer.why is not None or answer.status in UNWELL
            return
        except (BadHead, Cut):
            unwell = True
            raise
        finally:
            replica.end(failed=unwell)
            if whole:
                pool().give(connection)
            else:
                connection.abort()
