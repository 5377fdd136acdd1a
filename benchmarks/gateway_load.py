"""The other side of the gateway's benchmarks: replicas that answer at once, and clients that ask.

`python -m benchmarks.gateway_load` is one process on a core of its own, so that the gateway has
the other; it reads a question a line (JSON) and answers in a line. Both ends speak canned HTTP over
bare protocols and cost a few microseconds a request, of which none is spent in libraries.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, cast

import uvloop

SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"
CHAT = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * 40},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 40, "total_tokens": 52},
    }
).encode()
CHAT_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(CHAT)
) + CHAT
CHAT_QUESTION = json.dumps(
    {"model": "bench", "messages": [{"role": "user", "content": "Say forty words, please."}]}
).encode()
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
AGREED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
BLOCK = b"\x5a" * (1 << 20)
#: What an event of a model's stream looks like; the moment it is sent stands in its place.
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}@%017.6f\n\n'
)
EVENT_SIZE = len(EVENT % 1.0)


def chunk_now() -> bytes:
    """Return an event that says when it was sent, as a chunk."""
    return b"%x\r\n%b\r\n" % (EVENT_SIZE, EVENT % perf_counter())


class Upstream(asyncio.Protocol):
    """A replica: answers by the path alone."""

    #: Open streams of events, by the number in their path.
    streams: dict[int, asyncio.Transport] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""
        self.left = 0
        self.tunnel = False

    def data_received(self, data: bytes) -> None:
        if self.tunnel:
            return
        data = self.buffer + data
        if b"\r\n\r\n" not in data:
            self.buffer = data
            return
        self.buffer = b""
        path = data.split(b" ", 2)[1]
        if path == b"/small":
            self.transport.write(SMALL)
        elif path.endswith(b"/chat/completions"):
            if not data.endswith(CHAT_QUESTION):
                self.buffer = data
                return
            self.transport.write(CHAT_ANSWER)
        elif path.startswith(b"/events/"):
            self.transport.write(EVENTS)
            self.streams[int(path[8:])] = self.transport
        elif path.startswith(b"/large/"):
            self.left = int(path[7:])
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.left
            self.transport.write(head)
            self.resume_writing()
        elif path == b"/socket":
            self.tunnel = True
            self.transport.write(AGREED)
        else:  # the gateway's probes
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            size = min(self.left, len(BLOCK))
            self.left -= size
            self.transport.write(BLOCK if size == len(BLOCK) else BLOCK[:size])


class Asking(asyncio.Protocol):
    """A client that asks the same again as soon as it is answered."""

    def __init__(self, question: bytes, times: list[float], until: float) -> None:
        self.question = question
        self.times = times
        self.until = until
        self.size = 0
        self.got = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self.begun = perf_counter()
        self.got = 0
        self.transport.write(self.question)

    def data_received(self, data: bytes) -> None:
        if not self.size:  # every answer is as long as the first
            head, _, _ = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                self.done.set_exception(RuntimeError(head.decode()))
                self.transport.close()
                return
            length = next(x for x in head.split(b"\r\n") if x.lower().startswith(b"content-length"))
            self.size = len(head) + 4 + int(length.partition(b":")[2])
        self.got += len(data)
        if self.got < self.size:
            return
        now = perf_counter()
        self.times.append(now - self.begun)
        if now < self.until:
            self._ask()
        elif not self.done.done():
            self.done.set_result(None)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("closed in the midst"))


class Listening(asyncio.Protocol):
    """A client of a stream of events; says when each came."""

    def __init__(self, question: bytes, on_event: Callable[[float], None]) -> None:
        self.question = question
        self.on_event = on_event
        self.open = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.question)

    def data_received(self, data: bytes) -> None:
        if not self.open.done():
            if b" 200 " not in data.partition(b"\r\n")[0]:
                self.open.set_exception(RuntimeError(data.decode()))
            elif b"\r\n\r\n" in data:
                self.open.set_result(None)
            return
        if self.buffer:
            data = self.buffer + data
        pieces = data.split(b"\n\n")
        self.buffer = pieces.pop()
        for piece in pieces:
            self.on_event(float(piece[-17:]))


class Taking(asyncio.Protocol):
    """A client that takes a large answer, or holds an open WebSocket."""

    def __init__(self, question: bytes, size: int = 0) -> None:
        self.question = question
        self.size = size
        self.got = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.question)

    def data_received(self, data: bytes) -> None:
        if not self.got and not data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 101")):
            self.done.set_exception(RuntimeError(data[:500].decode()))
        self.got += len(data)
        if self.got >= self.size and not self.done.done():
            self.done.set_result(None)


async def _connect(port: int, make: Callable[[], Any]) -> Any:
    return (await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port))[1]


def _request(question: dict[str, Any], path: str, body: bytes = b"", more: str = "") -> bytes:
    verb = "POST" if body else "GET"
    length = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n" if body else ""
    return (
        f"{verb} {path} HTTP/1.1\r\nHost: {question['host']}\r\nUser-Agent: bench/1\r\n"
        f"Accept: */*\r\nAuthorization: Bearer {question['token']}\r\n{length}{more}\r\n"
    ).encode() + body


async def ask(question: dict[str, Any]) -> dict[str, float]:
    """Ask as fast as answers come, over some connections; the rate and the times."""
    body = CHAT_QUESTION if question["path"].endswith("/chat/completions") else b""
    data = _request(question, question["path"], body)
    times: list[float] = []
    begun = perf_counter()
    until = begun + question["seconds"]
    clients = [
        await _connect(question["port"], lambda: Asking(data, times, until))
        for _ in range(question["connections"])
    ]
    await asyncio.gather(*(client.done for client in clients))
    took = perf_counter() - begun
    times.sort()
    return {
        "rate": len(times) / took,
        "p50": times[len(times) // 2],
        "p99": times[len(times) * 99 // 100],
    }


async def events(question: dict[str, Any]) -> dict[str, float]:
    """Stream events over many streams: as fast as they are received, or at a given rate."""
    count, rate = question["streams"], question.get("rate", 0)
    delays: list[float] = []
    streams = Upstream.streams
    streams.clear()
    stop = False

    def closed_loop(number: int) -> Callable[[float], None]:
        def heard(sent: float) -> None:
            delays.append(perf_counter() - sent)
            if not rate and not stop:
                streams[number].write(chunk_now())

        return heard

    clients = []
    for number in range(count):
        data, heard = _request(question, f"/events/{number}"), closed_loop(number)
        client = await _connect(question["port"], lambda d=data, h=heard: Listening(d, h))
        await client.open
        clients.append(client)
    begun = perf_counter()
    if rate:
        await _pace(list(streams.values()), rate, question["seconds"])
    else:
        for transport in list(streams.values()):
            transport.write(chunk_now())
        await asyncio.sleep(question["seconds"])
    took = perf_counter() - begun
    stop = True
    received = len(delays)
    for client in clients:
        client.transport.close()
    await asyncio.sleep(0.1)  # who goes first is to be the client
    for transport in streams.values():
        transport.close()
    await asyncio.sleep(0.05)
    delays.sort()
    return {
        "rate": received / took,
        "p50": delays[received // 2],
        "p99": delays[received * 99 // 100],
    }


async def _pace(streams: list[asyncio.Transport], rate: float, seconds: float) -> None:
    """Send *rate* events a second, each by the next stream."""
    begun, sent = perf_counter(), 0
    while (now := perf_counter()) < begun + seconds:
        due = int((now - begun) * rate)
        for number in range(sent, due):
            streams[number % len(streams)].write(chunk_now())
        sent = due
        await asyncio.sleep(0.0005)


async def large(question: dict[str, Any]) -> dict[str, float]:
    """Take one large answer; bytes a second."""
    size = int(question["size"])
    data = _request(question, f"/large/{size}")
    begun = perf_counter()
    client = await _connect(question["port"], lambda: Taking(data, size))
    await client.done
    client.transport.close()
    return {"rate": size / (perf_counter() - begun)}


held: list[Taking] = []


async def hold(question: dict[str, Any]) -> dict[str, float]:
    """Open many WebSockets and keep them; 0 closes all."""
    if not question["count"]:
        for client in held:
            client.transport.abort()
        held.clear()
        await asyncio.sleep(0.2)
        return {}
    data = _request(question, "/socket", more="Connection: Upgrade\r\nUpgrade: websocket\r\n")
    begun = perf_counter()
    for _ in range(0, question["count"], 100):
        clients = [await _connect(question["port"], lambda: Taking(data)) for _ in range(100)]
        await asyncio.gather(*(client.done for client in clients))
        held.extend(clients)
    return {"rate": len(held) / (perf_counter() - begun), "open": len(held)}


DEEDS = {"ask": ask, "events": events, "large": large, "hold": hold}


async def main() -> None:
    """Say the replica's port, then answer questions until the input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        question = json.loads(line)
        try:
            answer: dict[str, Any] = await DEEDS[question["deed"]](question)
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
