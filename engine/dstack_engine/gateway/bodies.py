"""What the body of a request for a model says: which model, and whether a stream is wanted.

The body is read once, within bounds, and goes on to the replica byte for byte; what is read here
only chooses the way. `models` has one `Room` for all bodies that it holds at a time.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from dstack_engine.gateway import scanning
from dstack_engine.gateway.multipart import boundary_of, find_fields

#: The largest body of a request for a model, in bytes: pictures and sound are sent inside it.
BODY_LIMIT = 64 << 20
#: What all bodies held at a time may have together, in bytes, in one process.
ROOM = 512 << 20
#: How long a client may send nothing of a body that it announced, in seconds.
BODY_TIME = 60.0
#: JSON from here on, in bytes, is not parsed but searched for the fields that matter, if it has at
#: most one quote in so many bytes: pictures, sound, numbers. Of many small texts parsing is faster.
LARGE = 1 << 20
SPARSE = 256

_FIELDS = ("model", "stream")


class BodyTooLarge(Exception):
    """A body over `BODY_LIMIT`."""


class NoRoom(Exception):
    """Bodies that are held already leave no room for one more."""


class BadBody(Exception):
    """A body that cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's body, and what it says."""

    body: bytes
    #: None where no model is named.
    model: str | None = None
    stream: bool = False
    #: The JSON object, where it has been parsed.
    parsed: dict[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        """Return the JSON object; raises `BadBody` if it is none."""
        return _parse(self.body) if self.parsed is None else self.parsed


class Room:
    """The memory for bodies; who has taken some gives it back."""

    def __init__(self, size: int = ROOM) -> None:
        self._free = size

    async def read(self, request: web.BaseRequest) -> bytes:
        """Return the whole body, for which `give_back` is called later.

        Raises `BodyTooLarge` and `NoRoom` as soon as it is known to be so, and
        `asyncio.TimeoutError` when the client falls silent.
        """
        length = request.content_length
        if length is not None and length > BODY_LIMIT:
            raise BodyTooLarge
        taken = 0
        try:
            parts: list[bytes] = []
            content = request.content
            while not content.at_eof():
                if content.is_eof():
                    part = content.read_nowait()  # all is here already
                else:
                    part = await asyncio.wait_for(content.readany(), BODY_TIME)
                parts.append(part)
                taken += len(part)
                self._free -= len(part)
                if taken > BODY_LIMIT:
                    raise BodyTooLarge
                if self._free < 0:
                    raise NoRoom
        except BaseException:
            self.give_back(taken)
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def give_back(self, size: int) -> None:
        """Free what a body of *size* bytes has taken."""
        self._free += size


async def read_asked(request: web.BaseRequest, body: bytes) -> Asked:
    """Return what *body* says, which was read of *request*; raises `BadBody`."""
    if not body:
        return Asked(body)
    headers = request.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        return Asked(body)  # packed: only a replica unpacks it
    content_type = headers.get("Content-Type", "")
    if content_type[:10].lower() == "multipart/":
        return _read_form(body, content_type)
    if content_type and "json" not in content_type and body.lstrip()[:1] not in (b"{", b"["):
        return Asked(body)  # something else, which only a replica can read
    if len(body) >= LARGE and body.count(b'"') * SPARSE < len(body):
        return await _scan(body)
    fields = _parse(body)
    return _asked(body, fields, fields)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"The body of the request is no JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise BadBody("The body of the request must be a JSON object, `{…}`.")
    return fields


async def _scan(body: bytes) -> Asked:
    try:
        return _asked(body, await scanning.find_fields(body, _FIELDS), None)
    except scanning.NotAnObject as error:
        raise BadBody(f"The body of the request is no JSON object: {error}.") from error


def _asked(body: bytes, fields: dict[str, Any], parsed: dict[str, Any] | None) -> Asked:
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise BadBody(f"`model` must be a text, not {type(model).__name__}.")
    return Asked(body, model, fields.get("stream") is True, parsed)


def _read_form(body: bytes, content_type: str) -> Asked:
    boundary = boundary_of(content_type)
    if not boundary:
        raise BadBody("The request's Content-Type is multipart, but names no boundary.")
    found = find_fields(body, boundary, _FIELDS)
    return Asked(body, found.get("model"), found.get("stream", "").lower() == "true")
