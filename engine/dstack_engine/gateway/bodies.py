"""What the body of a request for a model says: which model, and whether a stream is wanted.

The body is read once, within bounds, and goes on to the replica byte for byte; what is read here
only chooses the way. Called by `models`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from dstack_engine.gateway.multipart import boundary_of, find_fields

#: The largest body of a request for a model, in bytes: pictures and sound are sent inside it.
BODY_LIMIT = 64 << 20


class BodyTooLarge(Exception):
    """A body over `BODY_LIMIT`."""


class BadBody(Exception):
    """A body that cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's body, and what it says."""

    body: bytes
    #: None where no model is named.
    model: str | None = None
    stream: bool = False
    #: The JSON object; empty for a form and for no body.
    fields: dict[str, Any] = field(default_factory=dict)


async def read_asked(request: web.BaseRequest) -> Asked:
    """Read the body of *request*; raises `BodyTooLarge` and `BadBody`."""
    body = await read_body(request, BODY_LIMIT)
    if not body:
        return Asked(body)
    headers = request.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        return Asked(body)  # packed: only a replica unpacks it
    content_type = headers.get("Content-Type", "")
    if content_type[:10].lower() == "multipart/":
        return _read_form(body, content_type)
    return _read_json(body, content_type)


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Return the whole body; raises `BodyTooLarge` as soon as it is known to be so."""
    length = request.content_length
    if length is not None and length > limit:
        raise BodyTooLarge
    content = request.content
    parts: list[bytes] = []
    size = 0
    while not content.at_eof():
        part = await content.readany()
        size += len(part)
        if size > limit:
            raise BodyTooLarge
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    return b"".join(parts)


def _read_json(body: bytes, content_type: str) -> Asked:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        if content_type and "json" not in content_type and body.lstrip()[:1] != b"{":
            return Asked(body)  # something else, which only a replica can read
        raise BadBody(f"The body of the request is no JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise BadBody("The body of the request must be a JSON object, `{…}`.")
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise BadBody(f"`model` must be a text, not {type(model).__name__}.")
    return Asked(body, model, fields.get("stream") is True, fields)


def _read_form(body: bytes, content_type: str) -> Asked:
    boundary = boundary_of(content_type)
    if not boundary:
        raise BadBody("The request's Content-Type is multipart, but names no boundary.")
    found = find_fields(body, boundary, ("model", "stream"))
    return Asked(body, found.get("model"), found.get("stream", "").lower() == "true")
