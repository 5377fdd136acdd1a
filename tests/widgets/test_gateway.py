"""The way to services and models, against a gateway of the test's own: streams, ends, secrets."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from IPython.lib.pretty import pretty

from dstack_engine.errors import NotFound, Refused
from dstack_engine.records.updates import GatewayView
from dstack_jupyter.failures import GatewayError
from dstack_jupyter.gateway import MAX_BODY, Cancelled, Gateway, Wish

TOKEN = "swordfish-0123456789"
PATIENCE = 20.0


@dataclass
class Scripted:
    """A gateway that answers as the test says, and a client that knows where it is."""

    answer: Any = None
    port: int | None = None
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def gateway(self) -> GatewayView:
        return GatewayView(self.port)

    def token(self) -> str:
        return TOKEN


@pytest.fixture
def door() -> Iterator[Scripted]:
    """A gateway."""
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_words: object) -> None: ...

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            script.asked.append((self.command, self.path, dict(self.headers), body))
            script.answer(self)

        do_POST = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        script.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield script
        server.shutdown()


@pytest.fixture
def gateway(door: Scripted) -> Gateway:
    return Gateway(lambda: door)  # type: ignore[arg-type, return-value]  # as much as is called


def plain(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """Answer with *body*."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def streamed(handler: BaseHTTPRequestHandler, *events: object) -> None:
    """Answer with server-sent events."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
    handler.end_headers()
    handler.wfile.write(b": a comment while it was held\n\n")
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        handler.wfile.write(f"data: {data}\n\n".encode())


def delta(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def test_a_service_is_asked_by_its_own_name_with_the_token(
    door: Scripted, gateway: Gateway
) -> None:
    door.answer = lambda handler: plain(handler, 418, b"tea" * 30_000, X_Kind="pot")
    answer = gateway.get("web", "/a?b=c")
    ((method, path, headers, _),) = door.asked
    assert (method, path, headers["Host"]) == ("GET", "/a?b=c", f"web.localhost:{door.port}")
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert (answer.status, len(answer.body), answer.is_cut) == (418, MAX_BODY, True)
    assert ("X-Kind", "pot") in answer.headers


def test_an_answer_comes_piece_by_piece(door: Scripted, gateway: Gateway) -> None:
    usage = {"choices": [], "usage": {"total_tokens": 2}}
    events = (delta("Hel"), {"choices": [{"delta": {"role": "x"}}]}, delta("lo"), usage, "[DONE]")
    door.answer = lambda handler: streamed(handler, *events)
    asked = [{"role": "user", "content": "Hi"}]
    assert list(gateway.chat("tiny", asked, temperature=0.5)) == ["Hel", "lo"]
    body = json.loads(door.asked[0][3])
    assert body == {"model": "tiny", "messages": asked, "stream": True, "temperature": 0.5}


def test_a_model_that_does_not_stream_is_heard_too(door: Scripted, gateway: Gateway) -> None:
    whole = {"choices": [{"message": {"content": "Hello"}}]}
    door.answer = lambda handler: plain(
        handler, 200, json.dumps(whole).encode(), Content_Type="application/json"
    )
    assert list(gateway.chat("tiny", [])) == ["Hello"]


def test_errors_are_sentences(door: Scripted, gateway: Gateway) -> None:
    error = {"error": {"message": "no model other; there is: tiny", "code": "model_not_found"}}
    body = json.dumps(error).encode()
    door.answer = lambda handler: plain(handler, 404, body, X_Dstack_Gateway="model_not_found")
    with pytest.raises(NotFound, match="there is: tiny"):
        list(gateway.chat("other", []))
    door.answer = lambda handler: plain(handler, 500, b"boom")
    with pytest.raises(GatewayError, match="boom"):
        list(gateway.chat("tiny", []))
    door.answer = lambda handler: streamed(handler, delta("so "), error)
    heard = gateway.chat("tiny", [])
    assert next(heard) == "so "
    with pytest.raises(GatewayError, match="there is: tiny"):
        next(heard)
    door.answer = lambda handler: streamed(handler, delta("half a "))
    with pytest.raises(GatewayError, match="broke off"):
        list(gateway.chat("tiny", []))
    door.port = 1
    with pytest.raises(GatewayError, match="does not answer"):
        gateway.get("web", "/")
    door.port = None
    with pytest.raises(Refused, match="No gateway runs yet"):
        gateway.get("web", "/")


def test_a_path_cannot_smuggle_anything(door: Scripted, gateway: Gateway) -> None:
    for path in ("/ HTTP/1.1\r\nX: y", "/a b", "/\x00"):
        with pytest.raises(GatewayError, match="no spaces or control characters"):
            gateway.get("web", path)
    assert not door.asked


def test_a_wish_that_is_cancelled_ends_the_question_at_the_gateway(
    door: Scripted, gateway: Gateway
) -> None:
    begun = threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        streamed(handler, delta("word "))
        begun.set()
        handler.connection.settimeout(PATIENCE)
        if handler.connection.recv(1) == b"":
            door.gone.set()

    door.answer = endless
    wish = Wish()
    heard = gateway.chat("tiny", [], wish)
    assert next(heard) == "word "
    assert begun.wait(PATIENCE)
    threading.Timer(0.05, wish.cancel).start()
    with pytest.raises(Cancelled):
        next(heard)
    assert door.gone.wait(PATIENCE)
    with pytest.raises(Cancelled):
        gateway.get("web", "/", wish)


def test_an_openai_client_is_ready_and_does_not_show_the_token(
    door: Scripted, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    door.answer = lambda handler: plain(
        handler,
        200,
        json.dumps({"object": "list", "data": [{"id": "tiny", "object": "model"}]}).encode(),
        Content_Type="application/json",
    )
    client = gateway.openai()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert door.asked[0][1] == "/v1/models"
    assert door.asked[0][2]["authorization"] == f"Bearer {TOKEN}"
    for shown in (client, client.models, gateway.openai_async(), gateway, gateway.token()):
        assert TOKEN not in repr(shown)
        assert TOKEN not in pretty(shown)
    assert f"{gateway.token()}" == TOKEN
    assert gateway.openai(api_key="mine").api_key == "mine"
    with pytest.raises(Exception, match="Connection error") as failed:
        gateway.openai(base_url="http://127.0.0.1:1/v1", max_retries=0).models.list()
    assert TOKEN not in str(failed.value)


def test_without_the_package_openai_the_way_to_it_is_told(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(Refused) as refused:
        gateway.openai()
    assert "pip install 'dstack-jupyter[openai]'" in refused.value.render()
