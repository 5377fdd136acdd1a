"""The ground of the proxy's tests: a real gateway on loopback, and real replicas behind it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import aiohttp
import uvloop
from aiohttp import web

from dstack_engine.gateway.app import Front, make_server
from dstack_engine.gateway.table import Service, Table
from dstack_engine.gateway.upstream import pool
from dstack_engine.records.publication import Publication, PublishedReplica, PublishedService

T = TypeVar("T")
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
RawHandler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: Seconds within which everything here happens, on however busy a computer.
DEADLINE = 10.0
TOKEN = "the-token"
#: What the gateway's own probes are called; replicas here answer them well.
PROBE = "dstack-gateway"


def run(story: Coroutine[Any, Any, T], deadline: float = DEADLINE) -> T:
    """Run a test's story to its end, within the deadline, on the loop that the gateway has."""
    return uvloop.run(asyncio.wait_for(story, deadline))


async def until(condition: Callable[[], bool]) -> None:
    """Return once *condition* holds."""
    while not condition():
        await asyncio.sleep(0.005)


class Ground:
    """A gateway, its replicas, and clients of it."""

    def __init__(self) -> None:
        self.table = Table()
        self.port = 0
        self.told: dict[str, PublishedService] = {}
        self._version = itertools.count(1)
        self._jobs = itertools.count(1)
        self._servers: list[asyncio.Server] = []
        self._factories: dict[int, web.Server[web.BaseRequest]] = {}

    async def start(self, front: Front | None = None) -> None:
        """Start the gateway."""
        server = make_server(front or Front(self.table))
        self._gateway = server
        self.port = await self._listen(server)

    async def _listen(self, factory: Callable[[], asyncio.BaseProtocol]) -> int:
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def replica(self, handler: Handler, **options: Any) -> PublishedReplica:
        """Start a replica that answers by *handler*."""

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            if request.headers.get("User-Agent") == PROBE:
                return web.Response()
            return await handler(request)

        server = web.Server(handle, access_log=None, **options)
        port = await self._listen(server)
        self._factories[port] = server
        return PublishedReplica(f"web-0-0/{next(self._jobs)}", "127.0.0.1", port)

    def end_replica(self, replica: PublishedReplica) -> None:
        """End a replica as a process ends: its door and all its connections at once."""
        for server in self._servers:
            if any(s.getsockname()[1] == replica.port for s in server.sockets):
                server.close()
        for connection in self._factories[replica.port].connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def raw_replica(self, handler: RawHandler) -> PublishedReplica:
        """Start a replica that does with each connection, whose first head it gets, as it likes."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                if f"User-Agent: {PROBE}".encode() in head:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                else:
                    await handler(head, reader, writer)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        self._servers.append(server)
        port = int(server.sockets[0].getsockname()[1])
        return PublishedReplica(f"web-0-0/{next(self._jobs)}", "127.0.0.1", port)

    def publish(self, *replicas: PublishedReplica, run: str = "web", **told: Any) -> Service:
        """Publish a service, without authorization unless told."""
        told.setdefault("auth", False)
        self.told[run] = PublishedService(run, f"id-{run}", replicas=replicas, **told)
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        self.table.apply(Publication(next(self._version), tuple(self.told.values()), (digest,)))
        return self.table.services[run]

    async def ready(self, run: str = "web") -> None:
        """Return once all replicas of *run* are ready."""
        service = self.table.services[run]
        await until(lambda: all(r.state == "ready" for r in service.replicas.values()))

    def url(self, path: str = "/", run: str = "web") -> str:
        """Return an address of *run*."""
        return f"http://{run}.localhost:{self.port}{path}"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Yield an HTTP client for which every name is this computer."""
        connector = aiohttp.TCPConnector(resolver=_Loopback())
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            yield session

    async def get(self, path: str = "/", run: str = "web", **options: Any) -> tuple[int, bytes]:
        """Return the status and the body of a GET."""
        async with self.client() as client, client.get(self.url(path, run), **options) as answer:
            return answer.status, await answer.read()

    async def send(self, data: bytes) -> bytes:
        """Send *data* as it is, and return all that comes until the gateway closes."""
        async with self.asking(data) as (reader, _):
            return await reader.read()

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the gateway."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    @asynccontextmanager
    async def asking(
        self, data: bytes
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Yield a connection to the gateway over which *data* was sent as it is."""
        reader, writer = await self.open()
        writer.write(data)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def close(self) -> None:
        """End everything."""
        for server in self._servers:
            server.close()
        await self._gateway.shutdown(0.1)
        await self.table.close()
        pool().close()


class _Loopback(aiohttp.abc.AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": 2,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    """Yield a gateway that publishes nothing yet."""
    made = Ground()
    await made.start()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def raw_ground(handler: RawHandler) -> AsyncIterator[Ground]:
    """Yield a gateway that publishes one raw replica."""
    async with ground() as made:
        made.publish(await made.raw_replica(handler))
        yield made


def says(*answer: bytes, stays: bool = False) -> RawHandler:
    """Return what a raw replica does that says *answer*, and *stays* until the gateway leaves."""

    async def say(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(answer))
        await writer.drain()
        if stays:
            await reader.read()

    return say


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Answer with what was asked."""
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "headers": [[n.decode(), v.decode("latin-1")] for n, v in request.raw_headers],
            "body": body.decode("latin-1"),
        }
    )
