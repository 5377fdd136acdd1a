"""A service as a page sees it: told of as it comes up, reached with a token it never has."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.websocket import websocket_connect

from dstack_engine.client import Client
from dstack_engine.spec.parsing import configuration_from_dict
from tests.server.conftest import Ask
from tests.server.listening import Listener
from tests.server.test_handlers import fields_of
from tests.server.test_proxying import PROGRAM


async def until_ready(ask: Ask, client: Client, events: Listener) -> dict[str, Any]:
    """Start a service with a model; return its row once a replica is ready."""
    await events.open()
    await ask("state")
    written = {
        "type": "service",
        "name": "app",
        "commands": [f"exec {sys.executable} {PROGRAM} $DSTACK_SERVICE_PORT"],
        "port": 8000,
        "model": "tiny",
        "probes": [{"type": "http", "url": "/ready", "interval": "1s"}],
        "instance_types": ["process"],
    }
    client.submit(configuration_from_dict(written))  # type: ignore[arg-type]  # it is a service

    def ready(change: dict[str, Any]) -> bool:
        return any(row["ready"] == 1 for row in change.get("services", ()))

    change = await events.until(ready)
    (row,) = change["services"]
    assert isinstance(row, dict)
    return row


async def test_a_service_is_told_of_and_reached_with_the_token_put_in(
    ask: Ask, client: Client, events: Listener, jp_fetch: Callable[..., Any], jp_base_url: str
) -> None:
    row = await until_ready(ask, client, events)
    assert row.keys() == fields_of("IServiceRow")
    assert row["replicas"][0].keys() == fields_of("IReplicaRow")
    assert row["replicas"][0]["state"] == "ready"
    assert row["model"] == "tiny"
    state = await ask("state")
    assert [service["name"] for service in state["services"]] == ["app"]
    assert state["models"] == [{"name": "tiny", "runs": ["app"], "ready_replicas": 1}]
    assert state["models_url"].startswith("http://127.0.0.1:")

    answer = await jp_fetch(*row["proxy"].strip("/").split("/"), "echo", params={"q": "1"})
    said = json.loads(answer.body)
    headers = {name.lower(): value for name, value in said["headers"]}
    assert said["uri"] == "/echo?q=1"
    assert headers["host"].startswith("app.localhost:")
    assert "authorization" not in headers
    assert client.token() not in answer.body.decode() + json.dumps(events.heard)
    models = await jp_fetch("dstack-jupyter", "models", "v1", "models")
    assert [model["id"] for model in json.loads(models.body)["data"]] == ["tiny"]
    moved = await jp_fetch("dstack-jupyter", "services", "app", "cookies")
    assert f"Path={jp_base_url}dstack-jupyter/services/app/" in moved.headers["Set-Cookie"]

    client.stop("app", abort=True)
    await events.until_run("app", finished=True)
    assert (await ask("state"))["services"] == []


async def test_a_service_s_websocket_takes_our_page_for_its_own(
    ask: Ask,
    client: Client,
    events: Listener,
    http_server: Any,
    jp_http_port: int,
    jp_base_url: str,
    jp_auth_header: dict[str, str],
) -> None:
    row = await until_ready(ask, client, events)
    ours = {**jp_auth_header, "Origin": f"http://localhost:{jp_http_port}"}
    url = f"ws://localhost:{jp_http_port}{jp_base_url}{row['proxy']}socket"
    socket = await websocket_connect(HTTPRequest(url, headers=HTTPHeaders(ours)))
    await socket.write_message("hello")
    assert await socket.read_message() == "hello"
    socket.close()
