"""The small fields of a multipart form, found without decoding or copying its files.

`bodies` asks for the field `model` of an audio or image request; the form itself goes on untouched.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from email.message import Message

#: Parts of a form that are looked at, the longest head of one, and the longest value, in bytes.
MOST_PARTS = 1_000
HEAD_LIMIT = 16 << 10
VALUE_LIMIT = 1 << 10

_DISPOSITION = re.compile(rb"^content-disposition[ \t]*:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_NAME = re.compile(rb';[ \t]*name[ \t]*=[ \t]*(?:"([^"]*)"|([^;\s"]+))', re.IGNORECASE)
_FILE = re.compile(rb";[ \t]*filename\*?[ \t]*=", re.IGNORECASE)


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary that a form's Content-Type names; None if it names none."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    return boundary.encode("latin-1", "replace") if boundary else None


def find_fields(body: bytes, boundary: bytes, names: Collection[str]) -> dict[str, str]:
    """Return the values of those of the fields *names* that are there and are no files."""
    found: dict[str, str] = {}
    divider = b"\r\n--" + boundary
    at = 0 if body.startswith(divider[2:]) else body.find(divider) + 2
    if at == 1:
        return found  # no divider at all
    at += len(divider) - 2
    for _ in range(MOST_PARTS):
        head_end = body.find(b"\r\n\r\n", at, at + HEAD_LIMIT)
        end = body.find(divider, at)
        if head_end < 0 or end < 0 or head_end > end:
            break
        name = _field_name(body[at:head_end])
        if name in names and end - head_end - 4 <= VALUE_LIMIT:
            found[name] = body[head_end + 4 : end].decode("utf-8", "replace")
        at = end + len(divider)
    return found


def _field_name(head: bytes) -> str:
    """Return the name that a part's head gives it; "" for a file, and for one without a name."""
    disposition = _DISPOSITION.search(head)
    if disposition is None or _FILE.search(disposition.group(1)):
        return ""
    name = _NAME.search(disposition.group(1))
    if name is None:
        return ""
    quoted, bare = name.groups()
    return (bare if quoted is None else quoted).decode("utf-8", "replace")
