"""The few fields of a large JSON object that choose its way, without parsing the rest.

A picture of 20 MB in a request takes 50 ms to parse, 8 MB of numbers a quarter of a second, and all
other requests would wait. This finds the ends of texts and counts brackets, a window at a time: the
picture takes a millisecond, the numbers make nobody wait. `bodies` uses it for what is large and
has few texts; whether the rest is right is for the replica to say.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Iterator

#: How much is looked at before others have their turn, in bytes: about a millisecond.
WINDOW = 256 << 10
#: The longest value that is returned, in bytes.
VALUE_LIMIT = 4 << 10

_structure = re.compile(rb'["{}\[\]]').search
_colon = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*").match
_literal = re.compile(rb"(?:true|false|null|-?\d[^\s,}]{0,100})").match

#: A string, a bracket, or None at the end of a window.
_Token = tuple[bytes, int, int]


class NotAnObject(ValueError):
    """Text that is no JSON object; the text says what is wrong."""


async def find_fields(body: bytes, names: Collection[str]) -> dict[str, object]:
    """Return those of the fields *names* of the object that are texts, numbers, true or false.

    A value of another kind is returned as None. Raises `NotAnObject`.
    """
    found: dict[str, object] = {}
    depth = 0
    for token in _tokens(body):
        if token is None:
            await asyncio.sleep(0)
            continue
        mark, start, end = token
        if mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
            if depth < 0:
                raise NotAnObject(f"a bracket too many at byte {start}")
        elif depth == 1 and end - start <= VALUE_LIMIT:
            colon = _colon(body, end)
            if colon and (name := _text(body, start, end)) in names:
                found[name] = _value(body, colon.end())
    if depth or body.lstrip()[:1] != b"{":
        raise NotAnObject("its brackets do not match" if depth else "it is no object")
    return found


def _tokens(body: bytes) -> Iterator[_Token | None]:
    at, size = 0, len(body)
    window = WINDOW
    while at < size:
        found = _structure(body, at, min(size, window))
        if found is None:
            at = window
        else:
            mark, start = found.group(), found.start()
            at = found.end() if mark != b'"' else _end_of_text(body, start)
            yield mark, start, at
        if at >= window:
            window = at + WINDOW
            yield None


def _end_of_text(body: bytes, start: int) -> int:
    """Return where the text ends whose first quote is at *start*."""
    at = start + 1
    while True:
        quote = body.find(b'"', at)
        if quote < 0:
            raise NotAnObject(f"the text that begins at byte {start} has no end")
        before = quote
        while body[before - 1] == 0x5C:  # a backslash, of which the first is after the quote
            before -= 1
        if (quote - before) % 2 == 0:
            return quote + 1
        at = quote + 1


def _value(body: bytes, at: int) -> object:
    if body[at : at + 1] == b'"':
        end = _end_of_text(body, at)
        return _text(body, at, end) if end - at <= VALUE_LIMIT else None
    literal = _literal(body, at)
    if literal is None:
        return None
    try:
        value: object = json.loads(literal.group())
    except ValueError as error:
        raise NotAnObject(str(error)) from error
    return value


def _text(body: bytes, start: int, end: int) -> str:
    try:
        return str(json.loads(body[start:end]))
    except ValueError as error:
        raise NotAnObject(str(error)) from error
