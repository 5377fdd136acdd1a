"""The heads of messages: what goes on to a replica, what comes back, and what is refused.

The proxy sends heads as bytes: those of the client and of the replica pass unchanged in case and
order, less what belongs to one connection alone (RFC 9110, 7.6.1), plus `X-Forwarded-*`. What two
servers could read differently is refused, so that nobody hides one request inside another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

#: Belong to one connection, never passed on; `TE` neither, for trailers pass without it.
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
)
#: What the gateway says itself to a replica; the client's own words are not believed.
OURS = frozenset(
    (
        b"host",
        b"content-length",
        b"expect",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"proxy-authorization",
    )
)
_HEAD_SPECIAL = HOP_BY_HOP | OURS | {b"authorization", b"authentication", b"accept-encoding"}
_ANSWER_SPECIAL = HOP_BY_HOP | {b"content-length", b"location", b"set-cookie"}
#: Statuses that never have a body.
BODILESS = frozenset((204, 304))
#: The largest head of an answer, in bytes.
MOST_HEAD = 64 * 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")
_FIELDS = re.compile(
    rb"(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*)*", re.DOTALL
)
_DIGITS = re.compile(rb"\d{1,18}")

RawHeaders = Iterable[tuple[bytes, bytes]]


class Fields(Protocol):
    """Headers that are looked up by name, whatever its case."""

    def get(self, name: str, default: str, /) -> str:
        """Return the first value of *name*, or *default*."""


class BadHead(ValueError):
    """A head that is refused: two servers could read it differently."""


@dataclass(slots=True)
class RequestHead:
    """A client's request as it goes on to a replica; `rendered` gives the bytes."""

    method: str
    #: The lines that pass, each ended.
    lines: bytes
    #: As sent by the client; empty if HTTP/1.0 named none.
    host: bytes
    #: None where the body is chunked, or there is none.
    length: int | None
    chunked: bool
    #: A WebSocket is asked for: the connection becomes a tunnel if the replica agrees.
    upgrade: bool
    #: `Expect: 100-continue`: the client waits before it sends the body.
    expects: bool

    def rendered(
        self, target: str, *, body: bytes | None = None, patience: bool = True, prefix: str = ""
    ) -> bytes:
        """Return the head's bytes; *body*, where given, replaces the client's own framing."""
        parts = [f"{self.method} {target} HTTP/1.1\r\nHost: ".encode("utf-8", "surrogateescape")]
        parts += (self.host, b"\r\n", self.lines)
        if prefix:
            parts.append(f"X-Forwarded-Prefix: {prefix}\r\n".encode())
        if self.upgrade:
            parts.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
        if body is not None:
            if body or self.length is not None or self.chunked:
                parts.append(b"Content-Length: %d\r\n" % len(body))
        elif self.chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        elif self.length is not None:
            parts.append(b"Content-Length: %d\r\n" % self.length)
        if self.expects and patience and body is None:
            parts.append(b"Expect: 100-continue\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


def request_head(
    method: str,
    raw: RawHeaders,
    *,
    remote: str,
    scheme: str = "http",
    secret: Sequence[bytes] = (),
    identity: bool = False,
    may_upgrade: bool = False,
) -> RequestHead:
    """Return what of a request's *raw* headers goes on to a replica.

    *secret* names the headers, in small letters, that carried our own token; *identity* asks for an
    answer that is not compressed. Raises `BadHead`.
    """
    kept: list[bytes] = []
    special: dict[bytes, bytes] = {}
    for name, value in raw:
        key = name.lower()
        if b"_" in key:
            key = key.replace(b"_", b"-")  # many servers take the two for one
            if key in _HEAD_SPECIAL:
                continue
        if key not in _HEAD_SPECIAL:
            kept.append(b"%b: %b\r\n" % (name, value))
        elif key == b"accept-encoding":
            kept.append(b"%b: %b\r\n" % (name, b"identity" if identity else value))
        elif key in (b"authorization", b"authentication"):
            if key not in secret:
                kept.append(b"%b: %b\r\n" % (name, value))
        elif key in special and key in _SINGLE:
            raise BadHead(f"two headers {name.decode('latin-1')}")
        elif key in special:
            special[key] += b", " + value
        else:
            special[key] = value
    host = special.get(b"host", b"")
    chunked, length = _request_framing(special)
    named = special.get(b"connection", b"")
    upgrade = (
        may_upgrade
        and special.get(b"upgrade", b"").lower() == b"websocket"
        and b"upgrade" in _names(named)
    )
    if named:
        kept = _without_named(kept, named)
    kept.append(_forwarded(special, host, remote, scheme))
    return RequestHead(
        method=method,
        lines=b"".join(kept),
        host=host,
        length=length,
        chunked=chunked,
        upgrade=upgrade,
        expects=special.get(b"expect", b"").lower() == b"100-continue",
    )


_SINGLE = frozenset((b"host", b"content-length", b"transfer-encoding"))


def _request_framing(special: dict[bytes, bytes]) -> tuple[bool, int | None]:
    coding = special.get(b"transfer-encoding")
    length = special.get(b"content-length")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise BadHead("a Transfer-Encoding other than chunked")
        if length is not None:
            raise BadHead("both Content-Length and Transfer-Encoding")
        return True, None
    return False, None if length is None else whole_length(length)


def _forwarded(special: dict[bytes, bytes], host: bytes, remote: str, scheme: str) -> bytes:
    before = special.get(b"x-forwarded-for")
    address = remote.encode()
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n" % (
        address if before is None else b"%b, %b" % (before, address),
        scheme.encode(),
        host,
    )


def _without_named(lines: list[bytes], named: bytes) -> list[bytes]:
    """Return *lines* without those that a `Connection` header names."""
    if named.lower() in (b"keep-alive", b"close", b"upgrade"):
        return lines
    names = _names(named)
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


def _names(named: bytes) -> set[bytes]:
    return {part.strip().lower() for part in named.split(b",")}


def whole_length(value: bytes) -> int:
    """Return a Content-Length; raises `BadHead` if it is not one whole number."""
    if not _DIGITS.fullmatch(value):
        raise BadHead("a Content-Length that is no number")
    return int(value)


@dataclass(slots=True)
class AnswerHead:
    """A replica's answer, without what belongs to its connection."""

    status: int
    reason: bytes
    #: The lines that pass, without their ends and without framing.
    lines: list[bytes]
    #: Length of the body; None where it is chunked, or ends with the connection.
    length: int | None
    chunked: bool
    #: The replica keeps the connection after this answer.
    keep_alive: bool
    #: Lines of `Location` and `Set-Cookie`, which the path form may have to change.
    addressed: list[bytes]
    #: What the replica upgrades to, of a 101.
    upgrade: bytes = b""

    @property
    def streamed(self) -> bool:
        """Return whether the body ends with the connection."""
        return self.length is None and not self.chunked

    def get(self, name: str, default: str, /) -> str:
        """Return the first value of the header *name* among those that pass, or *default*."""
        key = name.lower().encode() + b":"
        for line in self.lines:
            if line[: len(key)].lower() == key:
                return line[len(key) :].strip().decode("latin-1")
        return default

    def pairs(self) -> list[tuple[str, str]]:
        """Return the headers as text."""
        split = (line.partition(b":") for line in (*self.lines, *self.addressed))
        return [
            (name.decode("latin-1"), value.strip().decode("latin-1")) for name, _, value in split
        ]


def answer_head(head: bytes, *, bodiless: bool) -> AnswerHead:
    """Return the answer whose *head*, without its empty line, is given; raises `BadHead`.

    *bodiless* says that the request was HEAD, whose answer tells a length without having a body.
    """
    status_line, _, _ = head.partition(b"\r\n")
    matched = _STATUS_LINE.fullmatch(status_line)
    if not matched or not _FIELDS.fullmatch(head, len(status_line)):
        raise BadHead("the answer's head is not HTTP/1.1")
    minor, number, reason = matched.groups()
    status = int(number)
    lines: list[bytes] = []
    addressed: list[bytes] = []
    special: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        key = name.lower()
        if key not in _ANSWER_SPECIAL:
            lines.append(line)
        elif key == b"location" or key == b"set-cookie":
            addressed.append(line)
        elif key not in special:
            special[key] = value.strip(b" \t")
        elif key == b"content-length":
            if value.strip(b" \t") != special[key]:
                raise BadHead("two different lengths")
        else:
            special[key] += b", " + value.strip(b" \t")
    connection = special.get(b"connection", b"").lower()
    if connection:
        lines = _without_named(lines, connection)
    answer = AnswerHead(
        status=status,
        reason=reason or b"",
        lines=lines,
        length=None,
        chunked=False,
        keep_alive=b"close" not in connection if minor == b"1" else b"keep-alive" in connection,
        addressed=addressed,
        upgrade=special.get(b"upgrade", b""),
    )
    _frame(answer, special, bodiless)
    return answer


def _frame(answer: AnswerHead, special: dict[bytes, bytes], bodiless: bool) -> None:
    """Set how the body of *answer* ends (RFC 9112, 6.3)."""
    length = special.get(b"content-length")
    coding = special.get(b"transfer-encoding")
    if bodiless or answer.status in BODILESS or answer.status < 200:
        answer.length = 0
        if length is not None and answer.status != 204 and answer.status >= 200:
            answer.lines.append(b"Content-Length: " + b"%d" % whole_length(length))
    elif coding is not None:
        if coding.lower() != b"chunked":
            raise BadHead("a Transfer-Encoding other than chunked")
        answer.chunked = True
        answer.keep_alive = answer.keep_alive and length is None
    elif length is not None:
        answer.length = whole_length(length)
    else:
        answer.keep_alive = False


def moved_under(prefix: str, line: bytes, host: bytes) -> bytes:
    """Return a `Location` or `Set-Cookie` *line* for a service that is reached under *prefix*.

    An absolute path is put under the prefix unless it is there already; so is an address of the
    gateway itself. A cookie's path likewise, so that services do not see each other's.
    """
    name, _, value = line.partition(b":")
    value = value.strip()
    start = prefix.encode()
    if name.lower() == b"set-cookie":
        parts = [_moved_path(start, part) for part in value.split(b";")]
        if not any(part.strip().lower().startswith(b"path=") for part in parts):
            parts.append(b" Path=" + start + b"/")
        return b"%b: %b" % (name, b";".join(parts))
    own = b"http://" + host
    if host and (value == own or value.startswith(own + b"/")):
        rest = value[len(own) :] or b"/"
        return b"%b: %b%b" % (name, own, _under(start, rest))
    if value.startswith(b"/") and not value.startswith(b"//"):
        return b"%b: %b" % (name, _under(start, value))
    return line


def _moved_path(start: bytes, part: bytes) -> bytes:
    if not part.strip().lower().startswith(b"path="):
        return part
    path = part.strip()[5:]
    return b" Path=" + _under(start, path if path.startswith(b"/") else b"/")


def _under(start: bytes, path: bytes) -> bytes:
    return path if path == start or path.startswith(start + b"/") else start + path
