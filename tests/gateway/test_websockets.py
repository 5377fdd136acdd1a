"""WebSockets pass as bytes: subprotocols, pings, close codes, large messages, ends."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from tests.gateway.front_ground import TOKEN, echo, ground, run, until

#: They pass much through real sockets.
pytestmark = pytest.mark.slow


async def parrot(request: web.BaseRequest) -> web.StreamResponse:
    """Say everything twice; close with the code that is asked for."""
    socket = web.WebSocketResponse(protocols=["two", "one"], autoping=False, max_msg_size=0)
    await socket.prepare(request)  # type: ignore[arg-type]
    async for message in socket:
        if message.type is aiohttp.WSMsgType.PING:
            await socket.pong(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.data.startswith("close "):
            await socket.close(code=int(message.data[6:]), message=b"as asked")
        else:
            await socket.send_str(message.data * 2)
    return socket


def test_messages_subprotocol_and_pings_pass() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(parrot))
            async with client.ws_connect(
                g.url("/ws?x=1"), protocols=["one"], autoping=False
            ) as socket:
                assert socket.protocol == "one"
                await socket.send_str("ab")
                assert await socket.receive_str() == "abab"
                await socket.ping(b"now")
                pong = await socket.receive()
                assert (pong.type, pong.data) == (aiohttp.WSMsgType.PONG, b"now")

    run(story())


@pytest.mark.parametrize("path", ["/", "/services/web/ws"])
def test_a_close_code_reaches_the_other_end(path: str) -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            service = g.publish(await g.replica(parrot))
            url = g.url(path) if path == "/" else f"http://127.0.0.1:{g.port}{path}"
            async with client.ws_connect(url) as socket:
                await socket.send_str("close 4321")
                message = await socket.receive()
                assert message.type is aiohttp.WSMsgType.CLOSE
                assert (message.data, message.extra) == (4321, "as asked")
            await until(lambda: service.report().in_flight == 0)

    run(story())


def test_a_large_message_passes_both_ways() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(parrot))
            data = bytes(range(256)) * (16 << 10)  # 4 MB
            async with client.ws_connect(g.url(), max_msg_size=0) as socket:
                await socket.send_bytes(data)
                assert await socket.receive_bytes() == data

    run(story())


def test_what_follows_the_handshake_at_once_is_not_lost() -> None:
    async def agreeing(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n")
        writer.write(b"Upgrade: websocket\r\n\r\nhello")
        writer.write(await reader.readexactly(5))
        await writer.drain()

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.raw_replica(agreeing))
            raw = await g.send(
                b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly"
            )
            assert raw.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            assert raw.endswith(b"\r\n\r\nhelloearly")

    run(story())


def test_a_client_that_goes_away_ends_the_replicas_side() -> None:
    ended = asyncio.Event()

    async def watching(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)  # type: ignore[arg-type]
        await socket.send_str("hi")
        async for _ in socket:
            pass
        ended.set()
        return socket

    async def story() -> None:
        async with ground() as g:
            service = g.publish(await g.replica(watching))
            reader, writer = await g.open()
            writer.write(
                b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await reader.readuntil(b"hi")
            assert service.report().in_flight == 1
            writer.close()
            await ended.wait()
            await until(lambda: service.report().in_flight == 0)

    run(story())


def test_a_replica_that_does_not_agree_answers_as_usual() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(echo))
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await client.ws_connect(g.url())
            assert error.value.status == 200

    run(story())


def test_a_websocket_needs_the_token_too() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(parrot), auth=True)
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await client.ws_connect(g.url())
            assert error.value.status == 401
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with client.ws_connect(g.url(), headers=headers) as socket:
                await socket.send_str("x")
                assert await socket.receive_str() == "xx"

    run(story())


def test_other_upgrades_are_not_passed_on() -> None:
    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo))
            raw = await g.send(
                b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: Upgrade, close\r\n"
                b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
            )
            assert raw.startswith(b"HTTP/1.1 200 OK")
            assert b"h2c" not in raw

    run(story())


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: web.localhost\r\nUpgrade: websocket\r\n",
        b"GET / HTTP/1.0\r\nHost: web.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
        b"POST / HTTP/1.1\r\nHost: web.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Content-Length: 0\r\n",
    ],
)
def test_half_an_upgrade_is_none(head: bytes) -> None:
    heads: list[bytes] = []

    async def eager(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        heads.append(head)
        writer.write(b"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        writer.write(await reader.read(100))

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.raw_replica(eager))
            raw = await g.send(head + b"\r\nGET /hidden HTTP/1.0\r\nHost: none.localhost\r\n\r\n")
            assert raw[8:13] == b" 502 "  # a 101 that nobody asked for
            assert b"hidden" not in raw
            assert all(b"pgrade" not in each for each in heads)

    run(story())


def test_a_side_that_does_not_read_stops_the_other() -> None:
    taken = 0

    async def deaf(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        writer.write(b"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await release.wait()
        while data := await reader.read(1 << 16):
            taken += len(data)

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.raw_replica(deaf))
            reader, writer = await g.open()
            writer.write(
                b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            total = 64 << 20
            sending = asyncio.ensure_future(send(writer, total))
            await asyncio.wait([sending], timeout=1)
            assert not sending.done()  # the bytes do not pile up in the gateway
            release.set()
            await sending
            await until(lambda: taken == total)
            writer.close()

    async def send(writer: asyncio.StreamWriter, total: int) -> None:
        for _ in range(total >> 16):
            writer.write(b"x" * (1 << 16))
            await writer.drain()

    release = asyncio.Event()
    run(story())
