"""A gateway's door for models with servers behind it, all in one thread of the test's own.

The gateway is the real one: `make_server`, `Table`, `Models`. Behind it is `OpenAIServer`, a small
server of the OpenAI protocol, or what else a test puts there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from dstack_engine.gateway.app import Front, make_server
from dstack_engine.gateway.limits import RateLimiter
from dstack_engine.gateway.metering import Ledger
from dstack_engine.gateway.models import Models
from dstack_engine.gateway.table import Table
from dstack_engine.records.publication import (
    ModelUsage,
    Publication,
    PublishedReplica,
    PublishedService,
    ReplicaState,
)
from dstack_engine.spec.services import ServedModel

TOKEN = "a-token-for-tests"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
#: How long anything may take that a test waits for, in seconds.
PATIENCE = 20.0

T = TypeVar("T")


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Return when *true* is; fail with *what* if it does not become so."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)


def a_service(
    run: str, *ports: int, model: ServedModel | str | None = "tiny", auth: bool = True, **said: Any
) -> PublishedService:
    """Return a service as the engine would publish it, with a replica at each of *ports*."""
    if isinstance(model, str):
        model = ServedModel(name=model, format="openai")
    replicas = tuple(
        PublishedReplica(f"{run}-0-{number}/1", "127.0.0.1", port)
        for number, port in enumerate(ports)
    )
    return PublishedService(
        run=run, run_id=f"id-of-{run}", auth=auth, model=model, replicas=replicas, **said
    )


class House:
    """A running gateway and the servers behind it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        self._version = 0
        self._closing: list[Callable[[], Awaitable[object]]] = []
        self.ledger = Ledger()
        self.table: Table
        self.port: int
        self.call(self._open())

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* in the house's thread; return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    @property
    def url(self) -> str:
        """Return the base URL for OpenAI's clients."""
        return f"http://127.0.0.1:{self.port}/v1"

    def publish(self, *services: PublishedService, ready: bool = True) -> None:
        """Tell the gateway what there is, and wait until it finds all replicas ready."""
        self._version += 1
        publication = Publication(self._version, services, (DIGEST,))

        async def apply() -> None:
            self.table.apply(publication)

        self.call(apply())
        if ready:
            wait_until(self._all_ready, "every replica is ready")

    def serve(self, app: web.Application) -> int:
        """Serve *app* at a free port of loopback; return the port."""

        async def start() -> int:
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._closing.append(runner.cleanup)
            return int(runner.addresses[0][1])

        return self.call(start())

    def usage(self, requests: int = 1) -> ModelUsage:
        """Return the one line of the ledger, once it counts so many requests."""
        wait_until(
            lambda: sum(each.requests for each in self.ledger.usage()) >= requests,
            f"{requests} requests are counted",
        )
        (usage,) = self.ledger.usage()
        return usage

    def close(self) -> None:
        """End everything."""
        self.call(self._close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()

    def _live(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _open(self) -> None:
        self.table = Table()
        limiter = RateLimiter()
        self.models = Models(self.table, self.ledger, limiter)
        front = Front(self.table, models=self.models.answer, limiter=limiter)
        protocols = make_server(front)
        server = await self.loop.create_server(protocols, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

        async def close() -> None:
            server.close()
            await protocols.shutdown(0.2)
            await self.table.close()

        self._closing.append(close)

    async def _close(self) -> None:
        for close in self._closing:
            await close()

    def _all_ready(self) -> bool:
        replicas = [
            r for s in list(self.table.services.values()) for r in list(s.replicas.values())
        ]
        return all(each.state is ReplicaState.READY for each in replicas)


@dataclass
class Seen:
    """A request as it came to a server behind the gateway."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class OpenAIServer:
    """A small server of the OpenAI protocol, which keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        #: Set when a client has gone before its stream's end.
        self.left = threading.Event()
        self.app = web.Application(client_max_size=1 << 30)
        self.app.router.add_get("/", self._ready)
        self.app.router.add_post("/v1/chat/completions", self._chat)
        self.app.router.add_post("/v1/embeddings", self._embed)
        self.app.router.add_post("/v1/audio/transcriptions", self._transcribe)
        self.app.router.add_post("/v1/responses", self._respond)
        self.app.router.add_route("*", "/{rest:.*}", self._echo)

    async def _keep(self, request: web.Request) -> bytes:
        body = await request.read()
        self.seen.append(Seen(request.method, request.path_qs, dict(request.headers), body))
        return body

    async def _ready(self, request: web.Request) -> web.Response:
        return web.Response(text="ready")

    async def _echo(self, request: web.Request) -> web.Response:
        body = await self._keep(request)
        return web.json_response(
            {"path": request.path_qs, "sha256": hashlib.sha256(body).hexdigest()}
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await self._keep(request))
        last = asked["messages"][-1]
        if last["content"] == "fail":
            return web.json_response(
                {"error": {"message": "too long", "type": "invalid", "code": "context_length"}},
                status=400,
            )
        if last["content"] == "never":
            return await self._never()
        if asked.get("stream"):
            return await self._stream(request, asked)
        message: dict[str, Any] = {"role": "assistant", "content": f"You said {last['content']}"}
        finish = "stop"
        if asked.get("tools") and last["role"] == "user":
            function = asked["tools"][0]["function"]["name"]
            call = {"name": function, "arguments": '{"place": "Ulm"}'}
            message = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
            }
            finish = "tool_calls"
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
                "unknown_to_clients": "kept",
            },
            headers={"x-request-id": "req-1"},
        )

    async def _never(self) -> web.Response:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        raise AssertionError("nobody sets the event")

    async def _stream(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        words = asked["messages"][-1]["content"].split()
        usage = (asked.get("stream_options") or {}).get("include_usage")
        try:
            for number, word in enumerate(words):
                choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                await _send(
                    response, asked["model"], [choice], **({"usage": None} if usage else {})
                )
                if word == "endless":
                    while True:
                        await _send(response, asked["model"], [choice])
                        await asyncio.sleep(0.01)
                if word == "cut" and request.transport is not None:
                    request.transport.abort()
                    return response
                assert number < 10_000
            last = {"index": 0, "delta": {}, "finish_reason": "stop"}
            await _send(response, asked["model"], [last], **({"usage": None} if usage else {}))
            if usage:
                counted = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 9}
                await _send(response, asked["model"], [], usage=counted)
            await response.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise
        return response

    async def _embed(self, request: web.Request) -> web.Response:
        asked = json.loads(await self._keep(request))
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        return web.json_response(
            {"object": "list", "data": data, "model": asked["model"], "usage": usage}
        )

    async def _transcribe(self, request: web.Request) -> web.Response:
        body = await self._keep(request)
        form = await web_form(request.headers["Content-Type"], body)
        return web.json_response(
            {"text": f"{len(form['file'])} bytes for {form['model'].decode()}"}
        )

    async def _respond(self, request: web.Request) -> web.Response:
        asked = json.loads(await self._keep(request))
        text = {"type": "output_text", "text": "done", "annotations": []}
        message = {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [text],
        }
        return web.json_response(
            {
                "id": "resp_1",
                "object": "response",
                "created_at": 1,
                "model": asked["model"],
                "output": [message],
                "parallel_tool_calls": False,
                "tool_choice": "auto",
                "tools": [],
                "usage": {"input_tokens": 11, "output_tokens": 2, "total_tokens": 13},
                "metadata": {},
            }
        )


async def _send(
    response: web.StreamResponse, model: str, choices: list[dict[str, Any]], **more: Any
) -> None:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model}
    event = json.dumps({**chunk, "choices": choices, **more})
    await response.write(f"data: {event}\n\n".encode())


async def web_form(content_type: str, body: bytes) -> dict[str, bytes]:
    """Return the parts of a form, read by the standard library's mail parser."""
    from email.parser import BytesParser

    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    parts = BytesParser().parsebytes(head + body).walk()
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
        for part in parts
        if not part.is_multipart()
    }
