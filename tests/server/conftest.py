"""What tests of the server's side have: Jupyter Server with our extension, asked as a page asks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

# Its fixtures and hooks are for these tests alone: as a plugin they would be everybody's.
from pytest_jupyter.jupyter_core import *  # noqa: F403
from pytest_jupyter.jupyter_server import *  # noqa: F403

from dstack_engine.client import Client
from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_jupyter.session import close_session
from tests.server.listening import Listener
from tests.server.peers import Peer

#: Asks a route: its path, then `method`, `body` and whatever `jp_fetch` takes.
Ask = Callable[..., Awaitable[Any]]

#: Sends a request's bytes: its method and path, then headers and body.
Visit = Callable[..., Awaitable[Peer]]


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    """A server with our extension that lets nobody in without its token."""
    return {
        "ServerApp": {
            "jpserver_extensions": {"dstack_jupyter": True},
            "allow_unauthenticated_access": False,
        }
    }


@pytest.fixture(autouse=True)
def _session() -> Iterator[None]:
    yield
    close_session()


@pytest.fixture
def ask(jp_fetch: Callable[..., Any]) -> Ask:
    """Asks a route of ours and returns what its JSON says."""

    async def asked(path: str, *, body: object = None, **options: Any) -> Any:
        if body is not None:
            options = {"method": "POST", **options, "body": json.dumps(body)}
        answer = await jp_fetch("dstack-jupyter", *path.split("/"), **options)
        return json.loads(answer.body) if answer.body else None

    asked.fetch = jp_fetch  # type: ignore[attr-defined]  # where the answer is more than JSON
    return asked


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of a real engine in this test's home, started for it."""
    with connect(Home.of_user()) as client:
        yield client


@pytest.fixture
def events(jp_ws_fetch: Callable[..., Any]) -> Iterator[Listener]:
    """Jupyter's event channel, as a page hears it once it is opened."""
    listener = Listener(lambda: jp_ws_fetch("api", "events", "subscribe"))
    yield listener
    listener.close()


@pytest.fixture
def visit(
    http_server: Any, jp_http_port: int, jp_base_url: str, jp_auth_header: dict[str, str]
) -> Visit:
    """Asks a route of ours as bare bytes; returns the connection, on which the answer comes."""

    async def visited(
        method: str,
        path: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        body: bytes = b"",
        **options: Any,
    ) -> Peer:
        peer = await Peer.connect(jp_http_port, **options)
        target = f"{jp_base_url}dstack-jupyter/{path}"
        await peer.ask(method, target, {**jp_auth_header, **headers}, body)
        return peer

    return visited
