"""What of a browser's request goes on to a program behind Jupyter, and what comes back.

Pure. Jupyter's login stays with Jupyter: its cookies, its token, its word against forged requests
never reach the program. Paths in the answer are moved to where the browser sees the program.
Called by `proxying`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from dstack_engine.gateway.headers import (
    AnswerHead,
    RequestHead,
    moved_under,
    request_head,
)

Headers = Iterable[tuple[str, str]]

#: Names of Jupyter's and JupyterHub's cookies, in small letters.
_THEIR_COOKIES = re.compile(r"_xsrf|username-.*|jupyterhub-.*|jupyter-hub-token.*")
#: How Jupyter's own tokens come; a program's `Basic` or `Digest` is its own affair.
_THEIR_WORD = re.compile(r"\s*(?:token|bearer)(?:\s|$)", re.IGNORECASE)
_THEIR_HEADERS = frozenset({"x-xsrftoken", "x-jupyterhub-api-token"})
_SAME = frozenset({"same-origin", "none"})


@dataclass(frozen=True)
class Destination:
    """Where a request goes, and where the browser sees that place."""

    address: tuple[str, int]
    #: Path and query there.
    target: str
    #: Path below which the browser sees it, without a slash at the end.
    prefix: str
    #: What the program sees as its own name; None leaves it the one that the browser used.
    host: str | None = None
    #: The user's token for the gateway; empty where there is none to say.
    token: str = ""
    #: Name of the login's cookie, where an administrator has given it another.
    login_cookie: str = ""


def is_foreign(method: str, headers: Headers, *, upgrade: bool) -> bool:
    """Tell whether another site's page asks for something that may change something.

    What names no site at all is no browser's.
    """
    if method in ("GET", "HEAD", "OPTIONS") and not upgrade:
        return False
    said = {name.lower(): value for name, value in headers}
    origin = said.get("origin")
    if origin is not None:
        return urlsplit(origin.lower()).netloc != said.get("host", "").lower()
    return said.get("sec-fetch-site", "none").lower() not in _SAME


def wants_upgrade(headers: Headers) -> bool:
    """Tell whether a WebSocket is asked for."""
    return any(n.lower() == "upgrade" and v.lower() == "websocket" for n, v in headers)


def head_for(
    destination: Destination, method: str, headers: Headers, *, remote: str, scheme: str
) -> RequestHead:
    """Return the head of the request as it goes on; raise `BadHead`."""
    kept = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in _passing(destination, headers)
    ]
    head = request_head(method, kept, remote=remote, scheme=scheme, may_upgrade=True)
    if destination.host is not None:
        head.host = destination.host.encode()
    if destination.token:
        head.lines += f"Authorization: Bearer {destination.token}\r\n".encode()
    return head


def _passing(destination: Destination, headers: Headers) -> Iterator[tuple[str, str]]:
    pairs = list(headers)
    own = next((value for name, value in pairs if name.lower() == "host"), "")
    for name, value in pairs:
        key = name.lower().replace("_", "-")
        if key in _THEIR_HEADERS:
            continue
        if key in ("authorization", "authentication"):
            if not destination.token and not _THEIR_WORD.match(value):
                yield name, value
        elif key == "cookie":
            if cookies := _own_cookies(value, destination.login_cookie):
                yield name, cookies
        elif key == "origin" and destination.host is not None:
            # It compares this with its own name; that it is our page's was looked at before.
            same = urlsplit(value).netloc.lower() == own.lower()
            yield name, f"http://{destination.host}" if same else value
        elif key == "referer":
            yield name, value.partition("?")[0]  # there may be a token in what follows
        else:
            yield name, value


def _own_cookies(value: str, login_cookie: str) -> str:
    parts = [part.strip() for part in value.split(";")]
    return "; ".join(part for part in parts if part and not _is_theirs(part, login_cookie))


def _is_theirs(cookie: str, login_cookie: str) -> bool:
    name = cookie.partition("=")[0].strip().lower()
    return bool(_THEIR_COOKIES.fullmatch(name)) or (name != "" and name == login_cookie.lower())


def without_token(target: str, tokens: Iterable[str]) -> str:
    """Return path and query without a `token=` that is one of Jupyter's *tokens*."""
    path, mark, query = target.partition("?")
    theirs = {f"token={token}" for token in tokens if token}
    kept = [part for part in query.split("&") if part not in theirs]
    return f"{path}{mark}{'&'.join(kept)}" if kept != [""] and kept else path


def answer_pairs(
    destination: Destination, head: AnswerHead, own_host: str
) -> list[tuple[str, str]]:
    """Return the headers of an answer, with its paths where the browser sees them."""
    lines = [*head.lines]
    for line in head.addressed:
        name, _, value = line.partition(b":")
        if name.lower() == b"location":
            line = name + b": " + _without_host(value.strip(), destination, own_host)
        elif _is_theirs(
            value.strip().decode("latin-1").partition(";")[0], destination.login_cookie
        ):
            continue  # a program's cookie must not take the place of Jupyter's
        lines.append(moved_under(destination.prefix, line, b""))
    return replace(head, lines=lines, addressed=[]).pairs()


def _without_host(location: bytes, destination: Destination, own_host: str) -> bytes:
    """Return *location* as a path where it names the program itself."""
    port = destination.address[1]
    own = {own_host, destination.host or own_host, f"localhost:{port}", f"127.0.0.1:{port}"}
    for scheme in (b"http://", b"https://"):
        if location.lower().startswith(scheme):
            authority, slash, rest = location[len(scheme) :].partition(b"/")
            if authority.decode("latin-1").lower() in {name.lower() for name in own}:
                return slash + rest or b"/"
    return location
