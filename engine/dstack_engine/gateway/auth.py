"""Who may ask: the token in a request, and what of it must not reach a replica.

A client sends `Authorization: Bearer <token>`, or `Authentication: Bearer <token>` as older
documents said. The gateway knows digests only; see `Table.knows`.
"""

from __future__ import annotations

from aiohttp import web

from dstack_engine.gateway.refusals import refusal
from dstack_engine.gateway.table import Table

#: The headers that may carry the token.
CARRIERS = ("Authorization", "Authentication")
#: The longest token that is looked at, in characters.
MOST_TOKEN = 4096

_NAME = web.RequestKey("dstack-token-name", str)
_SECRET = web.RequestKey("dstack-token-headers", tuple[bytes, ...])


def identify(request: web.BaseRequest, table: Table) -> str | None:
    """Return the name of the token that *request* carries (8 hex digits), or None.

    The headers that carried it are remembered, so that `ours` tells them.
    """
    headers = request.headers
    found: str | None = None
    for carrier in CARRIERS:
        for value in headers.getall(carrier, ()):
            token = bearer(value)
            name = table.knows(token) if token else None
            if name is not None:
                found = name
                request[_SECRET] = (*ours(request), carrier.lower().encode())
    if found is not None:
        request[_NAME] = found
    return found


def bearer(value: str) -> str | None:
    """Return the token of a header's *value*, or None if it is no bearer's."""
    kind, _, token = value.partition(" ")
    token = token.strip()
    return token if kind.lower() == "bearer" and 0 < len(token) <= MOST_TOKEN else None


def name_of(request: web.BaseRequest) -> str:
    """Return the name that `identify` found; empty without."""
    name: str = request.get(_NAME, "")
    return name


def ours(request: web.BaseRequest) -> tuple[bytes, ...]:
    """Return the headers, in small letters, that carried our own token."""
    found: tuple[bytes, ...] = request.get(_SECRET, ())
    return found


def unauthorized(request: web.BaseRequest) -> web.Response:
    """Return the 401, which says what is missing."""
    if any(carrier in request.headers for carrier in CARRIERS):
        message = "The token is not known here."
    else:
        message = "A token is needed: send the header `Authorization: Bearer <token>`."
    return refusal(
        401, "invalid_api_key", f"{message} In a terminal, `dstack-jupyter token` prints yours."
    )
