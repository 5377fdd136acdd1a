"""OpenAI's chat over a server that speaks TGI's `generate` and `generate_stream`.

With a `chat_template` the prompt is made here (`translation`). Without one the server's own
`/v1/chat/completions` is asked, which newer TGI has. Called by `models` for services with
`format: tgi`; all their other routes pass untouched.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from dstack_engine.gateway.bodies import Asked
from dstack_engine.gateway.chunks import BadBody
from dstack_engine.gateway.counts import Visit
from dstack_engine.gateway.exchange import Exchange, exchange
from dstack_engine.gateway.headers import BadHead
from dstack_engine.gateway.holding import NoReplica
from dstack_engine.gateway.metering import Meter
from dstack_engine.gateway.refusals import error_body, refusal
from dstack_engine.gateway.table import Service
from dstack_engine.gateway.translation import (
    Generation,
    Stream,
    Unanswerable,
    completion_of,
    generation_of,
)
from dstack_engine.spec.services import ServedModel

#: The route that is translated, below `/v1`.
CHAT = "/chat/completions"

_OWN_CHAT = "/v1/chat/completions"
_DONE = b"data: [DONE]\n\n"
_HEADERS = (("Content-Type", "application/json"), ("Accept", "*/*"))
#: The longest whole answer, error and event of TGI's, in bytes.
ANSWER_LIMIT = 64 << 20
ERROR_LIMIT = 64 << 10
EVENT_LIMIT = 1 << 20
#: TGI's statuses that have another name with OpenAI: a request that is not valid; a generation
#: that failed.
_STATUSES = {422: 400, 424: 500}


class Failed(Exception):
    """No answer, or a bad one: what the client is told."""

    def __init__(
        self, status: int, code: str, message: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


@dataclass
class Chat:
    """A request for a chat, and what is counted of it."""

    request: web.BaseRequest
    service: Service
    model: ServedModel
    asked: Asked
    visit: Visit
    meter: Meter

    def __post_init__(self) -> None:
        self._client = _Client(self.request, self.service.told.run, events=self.asked.stream)

    async def answer(self) -> web.StreamResponse:
        """Answer it; errors are answers too."""
        if self.request.method != "POST":
            return refusal(405, "method_not_allowed", "A chat is asked for by POST.")
        try:
            if self.model.chat_template is None:
                return await self._ask_own_chat()
            return await self._ask_generate()
        except Unanswerable as error:
            self.meter.head(400, {})
            return refusal(400, "unsupported_request", str(error))
        except Failed as failed:
            self.meter.head(failed.status, {})
            self.visit.close(failed=failed.status >= 500)
            return await self._client.fail(failed)

    async def _ask_generate(self) -> web.StreamResponse:
        generation = generation_of(
            self.asked.fields(),
            self.model,
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
        )
        target = "/generate_stream" if generation.stream else "/generate"
        async with self._answered(target, json.dumps(generation.body).encode()) as answer:
            if answer.status != 200:
                raise _failure(answer.status, await _read(answer, ERROR_LIMIT, cut=True))
            self.meter.head(200, {})
            if generation.stream:
                return await self._stream(answer, generation)
            return await self._whole(answer, generation)

    async def _whole(self, answer: Exchange, generation: Generation) -> web.StreamResponse:
        text = await _read(answer, ANSWER_LIMIT)
        self.meter.chunk(b"")
        with _read_as_tgi("answer"):
            completion = completion_of(_json_object(text), generation, _told_length(answer))
        usage = completion["usage"]
        if usage is not None:
            self.meter.count(usage["prompt_tokens"], usage["completion_tokens"])
        return web.Response(body=json.dumps(completion).encode(), content_type="application/json")

    async def _stream(self, answer: Exchange, generation: Generation) -> web.StreamResponse:
        stream = Stream(generation, _told_length(answer))
        await self._client.send(stream.first())
        async for event in _events(answer):
            if "error" in event:
                raise _failure(500, json.dumps(event).encode())
            self.meter.chunk(b"")
            with _read_as_tgi("stream"):
                chunks = stream.take(event)
            for chunk in chunks:
                await self._client.send(chunk)
        if not stream.finished:
            raise Failed(502, "replica_closed", "The stream ended before the answer's end.")
        self.meter.count(stream.prompt_tokens, stream.completion_tokens)
        await self._client.say(_DONE)
        return await self._client.ended()

    async def _ask_own_chat(self) -> web.StreamResponse:
        """Pass the request to the server's own chat, and its answer back, both untouched."""
        async with self._answered(_OWN_CHAT, self.asked.body) as answer:
            if answer.status != 200:
                text = await _read(answer, ERROR_LIMIT, cut=True)
                if answer.status in (404, 405) or b"template_error" in text:
                    raise _template_needed(self.model)
                raise _failure(answer.status, text)
            self.meter.head(200, answer.headers)
            content_type = answer.headers.get("Content-Type", "application/json")
            async for piece in answer.chunks():
                self.meter.chunk(piece)
                await self._client.write(piece, content_type)
            return await self._client.ended()

    @asynccontextmanager
    async def _answered(self, target: str, body: bytes) -> AsyncIterator[Exchange]:
        """Give the answer; what keeps it from coming, and whole, is raised as `Failed`."""
        comfort = self._client.comfort
        try:
            async with exchange(
                self.service, "POST", target, _HEADERS, body, visit=self.visit, on_wait=comfort
            ) as answer:
                yield answer
        except NoReplica as none:
            raise Failed(503, "no_replica", none.message, none.retry_after) from none
        except (OSError, BadHead, BadBody) as error:
            raise Failed(502, "replica_closed", f"No whole answer came: {error}.") from error


@contextmanager
def _read_as_tgi(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failed(502, "bad_answer", f"The server's {what} is not TGI's: {error}.") from error


async def _read(answer: Exchange, limit: int, *, cut: bool = False) -> bytes:
    """Return the answer's body; of one over *limit* what came so far, if it may be *cut*."""
    parts: list[bytes] = []
    size = 0
    async for piece in answer.chunks():
        parts.append(piece)
        size += len(piece)
        if size > limit and cut:
            break
        if size > limit:
            raise Failed(502, "bad_answer", f"The answer has more than {limit >> 20} MB.")
    return b"".join(parts)


async def _events(answer: Exchange) -> AsyncIterator[Mapping[str, Any]]:
    """Yield the objects of a stream of events as they come."""
    rest = b""
    async for piece in answer.chunks():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > EVENT_LIMIT:
            raise Failed(502, "bad_answer", "An event of the server's stream is too long.")
        for line in lines:
            if line.startswith(b"data:"):
                yield _json_object(line[5:])


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Failed(502, "bad_answer", f"The server's answer is no JSON: {error}.") from error
    if not isinstance(value, dict):
        raise Failed(502, "bad_answer", "The server's answer is no JSON object.")
    return value


def _told_length(answer: Exchange) -> int | None:
    """Return the length of the prompt, in tokens, that newer TGI tells in a header."""
    told = answer.headers.get("x-prompt-tokens", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 10 else None


def _failure(status: int, text: bytes) -> Failed:
    """Return TGI's error as OpenAI's clients read it."""
    try:
        told = json.loads(text)
        message, code = str(told["error"]), str(told.get("error_type", "replica_error"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        message, code = f"The server answered {status}.", "replica_error"
    return Failed(_STATUSES.get(status, status if status >= 400 else 502), code, message)


def _template_needed(model: ServedModel) -> Failed:
    return Failed(
        400,
        "chat_template_needed",
        f"The server of `{model.name}` has no chat of its own. Write `chat_template`, and"
        " `eos_token`, under `model` in the service's configuration: both stand in the model's"
        " `tokenizer_config.json`.",
    )


class _Client:
    """Who asked: gets one answer, or a stream that may begin before there is anything in it."""

    def __init__(self, request: web.BaseRequest, run: str, *, events: bool) -> None:
        self._request = request
        self._run = run
        self._events = events
        self._response: web.StreamResponse | None = None

    async def comfort(self, seconds: float) -> None:
        """Send a comment while a replica is waited for, if the client waits for a stream."""
        if self._events:
            text = f": waiting for a replica of {self._run}, {seconds:.0f} s\n\n"
            await self.say(text.encode())

    async def send(self, event: Mapping[str, Any]) -> None:
        """Send an event."""
        await self.say(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def say(self, data: bytes) -> None:
        """Send bytes of a stream of events."""
        await self.write(data, "text/event-stream")

    async def write(self, data: bytes, content_type: str) -> None:
        """Send bytes; the first begin the answer."""
        if self._response is None:
            self._response = web.StreamResponse(
                headers={"Content-Type": content_type, "Cache-Control": "no-cache"}
            )
            await self._response.prepare(self._request)
        await self._response.write(data)

    async def ended(self) -> web.StreamResponse:
        """End the answer and return it."""
        if self._response is None:
            return web.Response()
        await self._response.write_eof()
        return self._response

    async def fail(self, failed: Failed) -> web.StreamResponse:
        """Tell an error: as the answer, or as the last event of a stream that has begun."""
        if self._response is None:
            return refusal(failed.status, failed.code, str(failed), retry_after=failed.retry_after)
        with suppress(ConnectionError):  # the client may be what has gone
            if self._events:
                body = error_body(failed.status, failed.code, str(failed))
                await self._response.write(b"data: " + body + b"\n\n")
                await self._response.write_eof()
            elif self._request.transport is not None:
                self._request.transport.close()  # cut, as the answer was
        return self._response
