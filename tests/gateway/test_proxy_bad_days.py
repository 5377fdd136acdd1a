"""Bad days of the proxy: clients that dawdle or vanish, replicas that hang, die or are replaced."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter

import aiohttp
import pytest
from aiohttp import web

from dstack_engine.gateway import peers
from dstack_engine.records.publication import PublishedReplica
from tests.gateway.front_ground import TOKEN, Ground, echo, ground, run, until

#: They pass much through real sockets.
pytestmark = pytest.mark.slow

POST = b"POST / HTTP/1.1\r\nHost: web.localhost\r\n"


async def swallow(request: web.BaseRequest) -> web.StreamResponse:
    """Read the whole body."""
    return web.Response(text=str(len(await request.read())))


def test_a_body_that_never_comes_ends_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "BODY_TIME", 0.1)
    monkeypatch.setattr(peers, "LOOK_EVERY", 0.05)

    async def story() -> None:
        async with ground() as g:
            service = g.publish(await g.replica(swallow, handler_cancellation=True))
            raw = await g.send(POST + b"Content-Length: 10\r\n\r\nhalf")
            assert raw.startswith(b"HTTP/1.1 408")
            assert b"X-Dstack-Gateway: body_timeout" in raw
            report = service.report()
            assert (report.in_flight, report.errors) == (0, 0)
            assert report.replicas[0].errors == 0  # it was the client's fault

    run(story())


def test_a_body_that_is_no_http_is_the_clients_fault() -> None:
    async def story() -> None:
        async with ground() as g:
            service = g.publish(await g.replica(swallow, handler_cancellation=True))
            await g.ready()
            reader, writer = await g.open()
            writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
            await until(lambda: service.report().in_flight == 1)
            writer.write(b"nonsense\r\n")
            raw = await reader.read()
            assert raw.startswith(b"HTTP/1.1 400")
            assert service.report().replicas[0].errors == 0
            writer.close()

    run(story())


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_client_that_vanishes_while_nothing_is_read_from_it_is_missed(
    upgrade: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "LOOK_EVERY", 0.05)

    async def deaf(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if upgrade:
            writer.write(b"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await asyncio.sleep(60)

    async def story() -> None:
        async with ground() as g:
            service = g.publish(await g.raw_replica(deaf))
            _, writer = await g.open()
            if upgrade:
                asked = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                writer.write(POST.replace(b"POST", b"GET") + asked)
            else:
                writer.write(POST + b"Content-Length: 1000000000\r\n\r\n")
            await until(lambda: service.report().in_flight == 1 and not service.report().held)
            sending = asyncio.ensure_future(pour(writer))
            await asyncio.wait([sending], timeout=0.5)  # all buffers are full by now
            sending.cancel()
            sock = writer.get_extra_info("socket")  # its RST is not stopped by full buffers
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            await until(lambda: service.report().in_flight == 0)

    async def pour(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * (1 << 16))
            await writer.drain()

    run(story())


def test_who_meets_a_dead_replica_waits_for_its_successor() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            dead = await g.replica(swallow)
            service = g.publish(dead)
            await g.ready()
            g.end_replica(dead)
            asking = asyncio.ensure_future(client.post(g.url(), data=b"four"))
            await until(lambda: service.report().held == 1)
            g.publish(await g.replica(swallow))
            answer = await asking
            assert (answer.status, await answer.text()) == (200, "4")

    run(story())


def test_a_replica_cannot_turn_a_request_into_a_tunnel() -> None:
    async def tunnelling(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await writer.drain()
        await reader.read()

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.raw_replica(tunnelling))
            status, body = await g.get()
            assert (status, b"bad_answer" in body) == (502, True)

    run(story())


def test_a_flood_of_interim_answers_does_no_harm() -> None:
    async def flooding(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 5000)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        await reader.read()

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.raw_replica(flooding))
            raw = await g.send(b"GET / HTTP/1.0\r\nHost: web.localhost\r\n\r\n")
            assert raw.startswith(b"HTTP/1.1 200 OK")

    run(story())


def test_a_replica_that_accepts_and_never_answers_holds_up_nobody_else() -> None:
    async def silent(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.sleep(60)

    async def story() -> None:
        async with ground() as g:
            stuck, well = await g.raw_replica(silent), await g.replica(echo)
            service = g.publish(stuck, well)
            await g.ready()
            service.replicas[well.job].in_flight = 1
            waiting = asyncio.ensure_future(g.get())
            await until(lambda: service.replicas[stuck.job].in_flight == 1)
            service.replicas[well.job].in_flight = 0
            for _ in range(10):  # the stuck one has a request more, so it gets none
                assert (await g.get())[0] == 200
            waiting.cancel()
            await until(lambda: service.replicas[stuck.job].in_flight == 0)

    run(story())


def test_a_replica_killed_in_mid_stream_hurts_no_other_stream() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            doomed, stop = await streaming_replica(g)
            well, end = await streaming_replica(g)
            g.publish(doomed, well)
            await g.ready()
            answers = [await client.get(g.url()) for _ in range(6)]
            stop.append("abort")
            outcomes: Counter[str] = Counter()

            async def read(answer: aiohttp.ClientResponse) -> None:
                try:
                    body = await answer.read()
                    outcomes["whole" if body.endswith(b"last") else "false end"] += 1
                except aiohttp.ClientPayloadError:
                    outcomes["cut"] += 1
                    end.append("finish")

            await asyncio.gather(*map(read, answers))
            assert outcomes == {"cut": 3, "whole": 3}

    run(story())


async def streaming_replica(g: Ground) -> tuple[PublishedReplica, list[str]]:
    """Start a replica whose streams go on until told to `finish` or `abort`."""
    word: list[str] = []

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while not word:
            await answer.write(b"more ")
            await asyncio.sleep(0.01)
        if word[0] == "abort":
            assert request.transport is not None
            request.transport.abort()
            return answer
        await answer.write_eof(b"last")
        return answer

    return await g.replica(stream), word


def test_rolling_replacement_under_load_fails_no_request_and_cuts_no_stream() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        made = web.StreamResponse()
        await made.prepare(request)
        for _ in range(3):
            await made.write(b"part ")
            await asyncio.sleep(0.005)
        await made.write_eof(b"end")
        return made

    outcomes: Counter[str] = Counter()

    async def ask(g: Ground, client: aiohttp.ClientSession, over: asyncio.Event) -> None:
        while not over.is_set():
            async with client.post(g.url(), data=b"question") as got:
                whole = await got.read() == b"part part part end"
                outcomes[f"{got.status} {'whole' if whole else 'cut'}"] += 1

    async def replace(g: Ground, old: PublishedReplica) -> PublishedReplica:
        new = await g.replica(answer)
        service = g.publish(old, new)
        await g.ready()
        g.publish(PublishedReplica(old.job, old.host, old.port, draining=True), new)
        await until(lambda: service.replicas[old.job].in_flight == 0)
        g.end_replica(old)
        g.publish(new)
        return new

    async def story() -> None:
        async with ground() as g, g.client() as client:
            replica = await g.replica(answer)
            g.publish(replica)
            over = asyncio.Event()
            asking = [asyncio.ensure_future(ask(g, client, over)) for _ in range(16)]
            for _ in range(5):
                answered = outcomes.total()
                replica = await replace(g, replica)
                await until(lambda before=answered: outcomes.total() > before + 32)  # type: ignore[misc]
            over.set()
            await asyncio.gather(*asking)
            assert set(outcomes) == {"200 whole"}

    run(story())


@pytest.mark.slow
def test_a_hundred_thousand_wrong_tokens_stop_nobody() -> None:
    wrong = b"GET / HTTP/1.1\r\nHost: web.localhost\r\nAuthorization: Bearer %0*d\r\n\r\n"

    async def guess(g: Ground, begin: int, count: int) -> int:
        reader, writer = await g.open()
        refused = 0
        for number in range(begin, begin + count, 100):
            writer.write(b"".join(wrong % (len(TOKEN), number + n) for n in range(100)))
            for _ in range(100):
                head = await reader.readuntil(b"\r\n\r\n")
                refused += head.startswith(b"HTTP/1.1 401")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                await reader.readexactly(int(length))
        writer.close()
        return refused

    async def story() -> None:
        async with ground() as g, g.client() as client:
            service = g.publish(await g.replica(echo), auth=True)
            await g.ready()
            guesses = [asyncio.ensure_future(guess(g, n * 25_000, 25_000)) for n in range(4)]
            answered = 0
            headers = {"Authorization": f"Bearer {TOKEN}"}
            while not all(each.done() for each in guesses):
                async with client.get(g.url(), headers=headers) as answer:
                    assert answer.status == 200
                    answered += 1
            assert sum(each.result() for each in guesses) == 100_000
            assert answered > 100  # each of them waited for its turn, and got it
            assert service.report().requests == answered

    run(story(), 250)
