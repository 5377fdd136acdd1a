"""Where a request goes, by its Host and its path.

`<run>.localhost` is a service; `127.0.0.1`, `localhost` and `gateway.localhost` are the gateway
itself, with `/services/<run>/…`, `/v1/…` and `/metrics`. Any other name is refused, so that a web
page cannot reach the gateway by a name of its own that it points at this computer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

#: Names of the gateway itself.
OWN_NAMES = frozenset(("127.0.0.1", "localhost", "gateway.localhost", "[::1]"))
#: Below this path of the gateway, services are found by name.
SERVICES = "/services/"
_SUFFIX = ".localhost"

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@\s]+)(?::(\d{0,5}))?", re.IGNORECASE)
#: A path's parts that lead up, in any spelling.
_DOTS = re.compile(r"(?:\.|%2e){2}(?:[/\\;]|%2f|%5c|$)", re.IGNORECASE)
_ENCODED = re.compile(r"%(2e|2f|5c)", re.IGNORECASE)
_SPELLED = {"2e": ".", "2f": "/", "5c": "\\"}


class NotHere(Exception):
    """A request for a place that the gateway does not have: its status, code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes."""

    #: Name of the service; None for the gateway itself.
    run: str | None
    #: Path and query there.
    target: str
    #: What the client's path begins with besides: ``/services/<run>``; empty by name.
    prefix: str = ""


def place_of(host: str, target: str) -> Place:
    """Return where a request with this `Host` and request-target goes; raises `NotHere`."""
    if not target.startswith("/"):
        host, target = _split_absolute(host, target)
    run = run_of(host)
    if run is not None:
        return Place(run, target)
    if not target.startswith(SERVICES):
        return Place(None, target)
    run, slash, rest = target[len(SERVICES) :].partition("/")
    if not slash:
        run, mark, query = run.partition("?")
        return Place(run, mark + query, SERVICES + run)
    place = Place(run, "/" + rest, SERVICES + run)
    if climbs(place.target):
        raise NotHere(400, "bad_path", "The path leads out of the service.")
    return place


@lru_cache(maxsize=1024)
def run_of(host: str) -> str | None:
    """Return the service that *host* names, or None for the gateway; raises `NotHere`."""
    matched = _HOST.fullmatch(host)
    name = matched[1].lower().rstrip(".") if matched else ""
    if name in OWN_NAMES:
        return None
    if name.endswith(_SUFFIX) and len(name) > len(_SUFFIX):
        return name[: -len(_SUFFIX)]
    shown = host[:100] or "(none)"
    raise NotHere(
        421,
        "misdirected",
        f"No service is called {shown!r} here. Use http://<run>.localhost:<port>/ or"
        " http://127.0.0.1:<port>/services/<run>/.",
    )


def climbs(target: str) -> bool:
    """Return whether the path of *target* leads above its own root, in any spelling."""
    if not _DOTS.search(target):
        return False
    path = target.partition("?")[0]
    depth = 0
    for part in plain_path(path).split("/"):
        name = part.partition(";")[0]
        if name == "..":
            depth -= 1
        elif name not in ("", "."):
            depth += 1
        if depth < 0:
            return True
    return False


def plain_path(target: str) -> str:
    """Return the path of *target* with dots and slashes spelled out, for comparing prefixes."""
    path = target.partition("?")[0]
    if "%" in path:
        path = _ENCODED.sub(lambda found: _SPELLED[found[1].lower()], path)
    return path.replace("\\", "/")


def _split_absolute(host: str, target: str) -> tuple[str, str]:
    """Return host and path of a request-target in absolute form (RFC 9112, 3.2.2)."""
    scheme, mark, rest = target.partition("://")
    if not mark or scheme.lower() != "http":
        raise NotHere(400, "bad_target", "The request's target is no path.")
    cut = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, path = rest[:cut], rest[cut:]
    if authority.lower() != host.lower():  # whom would a replica believe?
        raise NotHere(400, "bad_target", "The request's target and its Host differ.")
    return authority, path if path.startswith("/") else "/" + path
