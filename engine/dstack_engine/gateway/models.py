"""The models' own door: every route of OpenAI's interface, by the name of the model.

`app` hands every request below `/v1` to `Models.answer`. The model's name is read from the body,
the query or the form; the request then goes on untouched to a service that serves the model, so
that whatever its engine understands works: unknown fields, tools, pictures, any route.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import random
import time
from collections.abc import Sequence
from urllib.parse import unquote

from aiohttp import web

from dstack_engine.gateway import tgi
from dstack_engine.gateway.auth import unauthorized
from dstack_engine.gateway.bodies import (
    BODY_LIMIT,
    Asked,
    BadBody,
    BodyTooLarge,
    NoRoom,
    Room,
    read_asked,
)
from dstack_engine.gateway.limits import RateLimiter
from dstack_engine.gateway.metering import Ledger
from dstack_engine.gateway.proxy import forward
from dstack_engine.gateway.refusals import refusal
from dstack_engine.gateway.router import climbs
from dstack_engine.gateway.table import Service, Table

#: Where the models are.
ROOT = "/v1"
#: `Retry-After` for who finds no room for its body, in seconds.
NO_ROOM_RETRY_AFTER = 5
#: Names of models that are listed in an error.
MOST_LISTED = 20
#: The longest part of a name that is repeated in an error, in characters.
NAME_SHOWN = 200

_OWNER = "dstack-jupyter"


class Refused(Exception):
    """A request that is answered here, with an error."""

    def __init__(self, answer: web.StreamResponse) -> None:
        super().__init__(answer.status)
        self.answer = answer

    @classmethod
    def saying(cls, status: int, code: str, message: str, *, close: bool = False) -> Refused:
        """Return a refusal with a *message* of its own."""
        return cls(refusal(status, code, message, close=close))


class Models:
    """Answers requests for models; one in each gateway process."""

    def __init__(self, table: Table, ledger: Ledger, limiter: RateLimiter | None = None) -> None:
        self._table = table
        self._ledger = ledger
        self._limiter = limiter or RateLimiter()
        self._room = Room()
        self._first_seen: dict[str, int] = {}

    async def answer(self, request: web.BaseRequest, token: str | None) -> web.StreamResponse:
        """Answer a request whose path begins with `/v1`.

        *token* is the name of the known token that came with it; None if none did, or a wrong one.
        """
        try:
            return await self._answer(request, token)
        except Refused as refused:
            return refused.answer

    async def _answer(self, request: web.BaseRequest, token: str | None) -> web.StreamResponse:
        raw = request.raw_path  # which may begin with `http://…`
        rest = raw[raw.index(ROOT) + len(ROOT) :]
        path = rest.partition("?")[0]
        if token is None and not self._names(None):
            raise Refused(unauthorized(request))
        if climbs(path):
            raise Refused.saying(400, "bad_path", "The path leads out of the models' address.")
        if path == "/models" or path.startswith("/models/"):
            return self._describe(request, unquote(path[len("/models/") :]), token)
        body = await self._read(request)
        try:
            asked = await read_asked(request, body)
            name = asked.model if asked.model is not None else request.query.get("model")
            service = self._service_for(request, name, token)
            return await self._pass_on(request, service, rest, asked, token)
        except BadBody as bad:
            raise Refused.saying(400, "bad_request_body", str(bad)) from bad
        finally:
            self._room.give_back(len(body))

    async def _read(self, request: web.BaseRequest) -> bytes:
        try:
            return await self._room.read(request)
        except BodyTooLarge:
            raise Refused.saying(
                413,
                "request_too_large",
                f"The body of a request for a model may have {BODY_LIMIT >> 20} MB at most. Ask"
                " the service by its own name, where bodies are not read.",
                close=True,
            ) from None
        except asyncio.TimeoutError:
            raise Refused.saying(
                408, "request_timeout", "The body of the request did not come.", close=True
            ) from None
        except NoRoom:
            raise Refused(
                refusal(
                    503,
                    "no_room",
                    "Too many large requests are being answered. Try again soon.",
                    retry_after=NO_ROOM_RETRY_AFTER,
                    close=True,
                )
            ) from None

    async def _pass_on(
        self,
        request: web.BaseRequest,
        service: Service,
        rest: str,
        asked: Asked,
        token: str | None,
    ) -> web.StreamResponse:
        model = service.told.model
        assert model is not None, f"{service.told.run} was chosen for a model it does not serve"
        target = _below(model.prefix, rest)
        if service.told.rate_limits:
            self._limit(request, service, target)
        meter = self._ledger.meter(model.name, token or "")
        visit = service.arrive()
        try:
            if model.format == "tgi" and rest.partition("?")[0] == tgi.CHAT:
                return await tgi.Chat(request, service, model, asked, visit, meter).answer()
            # Without a body it may be a WebSocket, which `forward` takes care of.
            body = asked.body or None
            return await forward(
                request,
                service,
                target,
                body=body,
                observer=meter,
                visit=visit,
                stream=asked.stream,
            )
        finally:
            # What ended well has said so by now; this is for what did not get so far.
            meter.end(failed=False)
            visit.close()

    def _limit(self, request: web.BaseRequest, service: Service, target: str) -> None:
        """Refuse what comes too early for the service's own limits, whichever door it takes."""
        told = service.told
        wait = self._limiter.wait(told, target, request.remote or "", request.headers)
        if wait:
            self._limiter.keep(self._table.services)
            raise Refused(
                refusal(
                    429,
                    "rate_limited",
                    f"Too many requests for {told.run}; try again in {wait:.1f} s.",
                    retry_after=wait,
                )
            )

    def _service_for(
        self, request: web.BaseRequest, name: str | None, token: str | None
    ) -> Service:
        if name is None:
            name = self._only_model(token)
        services = self._table.of_model(name)
        if token is None and (not services or any(each.told.auth for each in services)):
            raise Refused(unauthorized(request))
        if not services:
            raise self._unknown(name)
        return services[0] if len(services) == 1 else least_busy(services)

    def _only_model(self, token: str | None) -> str:
        names = self._names(token)
        if len(names) == 1:
            return names[0]
        if not names:
            raise Refused.saying(404, "model_not_found", "No model is served now.")
        raise Refused.saying(
            400,
            "model_required",
            "The request names no model, and several are served: name one in the field `model`"
            f" of its body or as `?model=` in its address. There are {_listed(names)}.",
        )

    def _unknown(self, name: str) -> Refused:
        names = self._table.models()
        shown = name if len(name) <= NAME_SHOWN else name[:NAME_SHOWN] + "…"
        message = f"The model `{shown}` does not exist."
        near = difflib.get_close_matches(name[:NAME_SHOWN], names[:1000], 1)
        if near:
            message += f" Did you mean `{near[0]}`?"
        message += f" There are {_listed(names)}." if names else " No model is served now."
        return Refused.saying(404, "model_not_found", message)

    def _describe(
        self, request: web.BaseRequest, name: str, token: str | None
    ) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise Refused.saying(
                405, "method_not_allowed", "Models can be listed here, and no more."
            )
        names = self._names(token)
        if not name:
            return _json({"object": "list", "data": [self._described(each) for each in names]})
        if name not in names:
            raise Refused(unauthorized(request)) if token is None else self._unknown(name)
        return _json(self._described(name))

    def _described(self, name: str) -> dict[str, object]:
        if len(self._first_seen) > 10 * MOST_LISTED:
            known = set(self._table.models())
            self._first_seen = {n: at for n, at in self._first_seen.items() if n in known}
        created = self._first_seen.setdefault(name, int(time.time()))
        return {"id": name, "object": "model", "created": created, "owned_by": _OWNER}

    def _names(self, token: str | None) -> list[str]:
        """Return the models that may be asked for with *token*."""
        names = self._table.models()
        if token is not None:
            return names
        return [n for n in names if not any(s.told.auth for s in self._table.of_model(n))]


def least_busy(services: Sequence[Service]) -> Service:
    """Return the service with the least busy ready replica; among equals, by lot among replicas.

    Where none has a ready one, it is the service with the fewest requests waiting, and of these the
    one that may be held.
    """
    least = -1
    equals: list[Service] = []
    for service in services:
        for replica in service.replicas.ready:
            if not equals or replica.in_flight < least:
                least, equals = replica.in_flight, []
            if replica.in_flight == least:
                equals.append(service)
    if equals:
        return random.choice(equals)
    return min(services, key=lambda each: (not each.told.holds, each.holding.held))


def _below(prefix: str, rest: str) -> str:
    """Return the target at the replica for what follows `/v1`."""
    if prefix == ROOT:
        return ROOT + rest
    inner = prefix.strip("/")
    return f"/{inner}{rest}" if inner else rest or "/"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name[:NAME_SHOWN]}`" for name in names[:MOST_LISTED])
    more = len(names) - MOST_LISTED
    return shown if more <= 0 else f"{shown} and {more} more"


def _json(value: object) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), content_type="application/json")
