"""Streams pass as they come, both ways, in little memory, and their ends are told truly."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from dstack_engine.gateway import holding
from tests.gateway.front_ground import Ground, ground, raw_ground, run, says, until

#: They pass much through real sockets.
pytestmark = pytest.mark.slow

GET = b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: web.localhost\r\n"  # its head goes on


def test_events_pass_one_by_one_as_they_are_sent() -> None:
    heard = asyncio.Event()

    async def events(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for number in range(5):
            await answer.write(b"data: %d\n\n" % number)
            await heard.wait()  # the next is sent only once this one has been received
            heard.clear()
        await answer.write_eof()
        return answer

    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(events))
            async with client.get(g.url()) as answer:
                assert answer.headers["Content-Type"] == "text/event-stream"
                got = []
                async for chunk, whole in answer.content.iter_chunks():
                    assert whole  # a chunk passes as one
                    got.append(chunk)
                    heard.set()
            assert got == [*(b"data: %d\n\n" % number for number in range(5)), b""]  # and the end

    run(story())


def test_the_head_of_a_stream_comes_before_its_first_event() -> None:
    async def silent(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await asyncio.sleep(60)
        return answer

    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(silent))
            async with client.get(g.url()) as answer:
                assert answer.status == 200

    run(story())


def test_a_replica_that_dies_in_mid_stream_is_no_end_of_the_stream() -> None:
    half = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"

    async def story() -> None:
        async with raw_ground(says(half)) as g, g.client() as client:
            async with client.get(g.url()) as answer:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()
            assert g.table.services["web"].report().errors == 1
            assert await g.send(GET) == half

    run(story())


def test_a_body_shorter_than_it_said_is_cut() -> None:
    short = says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async def story() -> None:
        async with raw_ground(short) as g:
            with pytest.raises(aiohttp.ClientPayloadError):
                await g.get()

    run(story())


def test_a_body_that_ends_with_the_connection_is_given_an_end() -> None:
    old = says(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")

    async def story() -> None:
        async with raw_ground(old) as g:
            assert await g.get() == (200, b"all of it")
            raw = await g.send(b"GET / HTTP/1.0\r\nHost: web.localhost\r\n\r\n")
            assert raw.endswith(b"Connection: close\r\n\r\nall of it")

    run(story())


def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    chunked = says(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\none\r\n3;ext=1\r\ntwo\r\n0\r\nX-Sum: 6\r\n\r\n",
    )

    async def story() -> None:
        async with raw_ground(chunked) as g:
            raw = await g.send(b"GET / HTTP/1.0\r\nHost: web.localhost\r\n\r\n")
            assert raw.partition(b"\r\n\r\n")[2] == b"onetwo"
            assert b"chunked" not in raw

    run(story())


def test_trailers_pass() -> None:
    chunked = says(
        b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\none\r\n0\r\nX-Sum: 3\r\n\r\n",
        stays=True,
    )

    async def story() -> None:
        async with raw_ground(chunked) as g, g.asking(GET) as (reader, _):
            raw = await reader.readuntil(b"X-Sum: 3\r\n\r\n")
            assert b"Trailer: X-Sum\r\n" in raw
            assert raw.endswith(b"3\r\none\r\n0\r\nX-Sum: 3\r\n\r\n")

    run(story())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
)
def test_an_answer_that_could_be_read_in_two_ways_is_refused(answer: bytes) -> None:
    async def story() -> None:
        async with raw_ground(says(answer, stays=True)) as g:
            status, body = await g.get()
            assert (status, b"bad_answer" in body) == (502, True)

    run(story())


async def blocks(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * 65536


def test_a_large_upload_and_a_large_download_pass_in_little_memory() -> None:
    size, block = 48 << 20, b"\x5a" * (1 << 16)

    async def swallow(request: web.BaseRequest) -> web.StreamResponse:
        digest = hashlib.sha256()
        async for data in request.content.iter_any():
            digest.update(data)
        return web.Response(text=digest.hexdigest())

    async def pour(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.content_length = size
        await answer.prepare(request)
        for _ in range(size // len(block)):
            await answer.write(block)
        return answer

    async def both(request: web.BaseRequest) -> web.StreamResponse:
        return await (pour if request.method == "GET" else swallow)(request)

    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(both))
            await g.ready()
            tracemalloc.start()
            digest = hashlib.sha256()
            async for data in blocks(size >> 16):
                digest.update(data)
            async with client.put(g.url(), data=blocks(size >> 16)) as answer:
                assert await answer.text() == digest.hexdigest()
            async with client.get(g.url()) as answer:
                got = 0
                async for data in answer.content.iter_any():
                    got += len(data)
                assert got == size
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 16 << 20

    run(story())


def test_a_client_that_does_not_read_stops_the_replica() -> None:
    sent = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65536)
            sent += 65536

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(endless))
            async with g.asking(GET) as (reader, _):
                await reader.readuntil(b"\r\n\r\n")
                before = -1
                while sent != before:  # until nothing moves any more
                    before = sent
                    await asyncio.sleep(0.3)
                assert sent < 64 << 20
                for _ in range(200):  # and it goes on when the client does
                    await reader.readexactly(65536)
                await until(lambda: sent > before)

    run(story())


def test_an_answer_may_begin_before_the_request_has_ended() -> None:
    async def talk(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for data in request.content.iter_any():
            await answer.write(data.upper())
        await answer.write_eof()
        return answer

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(talk))
            async with g.asking(POST + b"Transfer-Encoding: chunked\r\n\r\n") as (reader, writer):
                for word in (b"one", b"two"):
                    writer.write(b"3\r\n" + word + b"\r\n")
                    await reader.readuntil(word.upper())
                writer.write(b"0\r\n\r\n")
                assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")

    run(story())


def test_a_client_that_waits_for_100_continue_gets_the_replicas() -> None:
    async def careful(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert b"Expect: 100-continue" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(4)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + body)

    asked = POST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"

    async def story() -> None:
        async with raw_ground(careful) as g, g.asking(asked) as (reader, writer):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"body")
            assert (await reader.readuntil(b"body")).startswith(b"HTTP/1.1 200 OK")

    run(story())


def test_early_hints_pass() -> None:
    hinting = says(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )

    async def story() -> None:
        async with raw_ground(hinting) as g:
            raw = await g.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert raw.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK")

    run(story())


def test_an_answer_before_the_end_of_a_refused_upload_reaches_the_client() -> None:
    refusing = says(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!")
    asked = POST + b"Content-Length: 1000000\r\n\r\nbegin"

    async def story() -> None:
        async with raw_ground(refusing) as g, g.asking(asked) as (reader, _):
            raw = await reader.readuntil(b"no!")
            assert raw.startswith(b"HTTP/1.1 413 Too Large\r\n")
            assert b"Connection: close" in raw

    run(story())


async def events_after(g: Ground, body: bytes) -> bytes:
    """Return all that a client gets that asked for a stream while no replica was there."""
    head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    return await g.send(head + body)


def test_a_held_client_of_a_stream_hears_comments_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holding, "TOLD_EVERY", 0.05)

    async def events(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: hello\n\n")
        await answer.write_eof()
        return answer

    async def story() -> None:
        async with ground() as g:
            service = g.publish()
            asking = asyncio.ensure_future(events_after(g, b'{"stream": true}'))
            await until(lambda: service.report().held == 1)
            await asyncio.sleep(0.2)
            g.publish(await g.replica(events))
            raw = await asking
            assert raw.count(b"HTTP/1.1") == 1
            assert raw.count(b": waiting for a replica of web") >= 2
            assert raw.index(b": waiting") < raw.index(b"data: hello\n\n")
            assert raw.endswith(b"0\r\n\r\n")

    run(story())


def test_a_held_stream_that_fails_says_so_in_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "TOLD_EVERY", 0.05)

    async def story() -> None:
        async with ground() as g:
            service = g.publish()
            asking = asyncio.ensure_future(events_after(g, b'{"stream":true}'))
            await until(lambda: service.report().held == 1)
            await asyncio.sleep(0.2)
            g.publish(holds=False, trouble="replica 0 failed: exit code 1")
            raw = await asking
            assert b'data: {"error": {"message": "replica 0 failed: exit code 1"' in raw
            assert raw.endswith(b"0\r\n\r\n")

    run(story())
