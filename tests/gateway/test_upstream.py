"""Connections to replicas: answers torn anywhere read the same, and connections are used again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from dstack_engine.gateway import upstream
from dstack_engine.gateway.headers import AnswerHead
from dstack_engine.gateway.upstream import Connection
from tests.gateway.front_ground import ground, run

ANSWERS = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello": b"hello",
    b"HTTP/1.1 204 No Content\r\n\r\n": b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: " + b"x" * 300 + b"\r\n\r\n": b"",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok": b"ok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\none\r\n00A;x=1\r\ntwo\r\nthree\r\n0\r\nX-Sum: 1\r\n\r\n": b"onetwo\r\nthree",
}


class Noting:
    """Takes an answer and notes it."""

    wants_pieces = True

    def __init__(self) -> None:
        self.interims: list[int] = []
        self.heads: list[AnswerHead] = []
        self.raw = b""
        self.pieces = b""
        self.ended = False
        self.why: Exception | None = None

    def interim(self, head: AnswerHead) -> None:
        self.interims.append(head.status)

    def head(self, head: AnswerHead) -> None:
        self.heads.append(head)

    def body(self, raw: bytes, pieces: Sequence[bytes]) -> None:
        self.raw += raw
        self.pieces += b"".join(pieces)

    def flush(self) -> None:
        pass

    def end(self) -> None:
        self.ended = True

    def cut(self, why: Exception) -> None:
        self.why = why

    def writable(self) -> None:
        pass


class Wire:
    """A transport that leads nowhere."""

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = close


def asked(bodiless: bool = False) -> tuple[Connection, Noting]:
    """Return a connection that has been asked something, and who takes the answer."""
    connection, noting = Connection(("127.0.0.1", 1)), Noting()
    connection.connection_made(cast(Any, Wire()))
    connection.ask(b"GET / HTTP/1.1\r\n\r\n", noting, bodiless=bodiless)
    return connection, noting


@given(st.sampled_from(list(ANSWERS)), st.data())
def test_an_answer_reads_the_same_wherever_it_is_torn(answer: bytes, data: st.DataObject) -> None:
    connection, noting = asked()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=6)))
    for begin, end in zip([0, *cuts], [*cuts, len(answer)], strict=True):
        assert not noting.ended
        connection.data_received(answer[begin:end])
    assert noting.ended
    assert noting.why is None
    assert noting.pieces == ANSWERS[answer]
    assert answer.endswith(noting.raw)
    assert len(noting.heads) == 1
    assert noting.interims == ([100, 103] if b"103" in answer else [])
    assert connection.reusable


@given(st.sampled_from(list(ANSWERS)), st.binary(min_size=1, max_size=20))
def test_bytes_after_an_answer_are_never_taken_for_the_next(answer: bytes, more: bytes) -> None:
    connection, noting = asked()
    connection.data_received(answer + more)
    assert noting.ended
    assert noting.pieces == ANSWERS[answer]
    assert not connection.reusable
    connection, noting = asked()
    connection.data_received(answer)
    connection.data_received(more)
    assert not connection.open


@given(st.binary(max_size=400))
def test_no_answer_breaks_the_reader(data: bytes) -> None:
    connection, noting = asked()
    connection.data_received(data)
    connection.connection_lost(None)
    assert noting.ended or noting.why is not None


def test_the_answer_to_head_has_no_body_whatever_it_says() -> None:
    connection, noting = asked(bodiless=True)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert noting.ended
    assert b"Content-Length: 5" in noting.heads[0].lines


@pytest.mark.parametrize(("method", "connections"), [("GET", 1), ("POST", 3)])
def test_what_cannot_be_repeated_takes_only_a_fresh_connection(
    method: str, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "IDLE_TIME_ONCE", -1.0)
    peers = set()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response()

    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(answer))
            await g.ready()
            for _ in range(3):
                async with client.request(method, g.url(), data=b"x") as got:
                    assert got.status == 200
            assert len(peers) == connections

    run(story())


def test_unused_connections_are_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "IDLE_TIME", 0.05)
    closed = asyncio.Event()

    async def once(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert await reader.read() == b""
        closed.set()

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.raw_replica(once))
            assert (await g.get())[0] == 200
            await closed.wait()

    run(story())
