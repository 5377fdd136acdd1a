"""The models' door: which service a request goes to, and what it is told when there is none."""

from __future__ import annotations

import hashlib
import http.client
import json
import threading
from collections import Counter
from typing import Any

import pytest
from aiohttp import ClientSession, web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstack_engine.gateway.bodies import BODY_LIMIT
from dstack_engine.spec.services import RateLimit, ServedModel
from tests.gateway.model_house import TOKEN, House, OpenAIServer, a_service, wait_until

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def server(house: House) -> OpenAIServer:
    return OpenAIServer()


class Answer:
    """An answer, read whole."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, str]:
        assert self.headers["X-Dstack-Gateway"] == self.json["error"]["code"]
        return dict(self.json["error"])


def ask(
    house: House,
    method: str,
    path: str,
    body: bytes | dict[str, Any] | None = None,
    headers: dict[str, str] = AUTHORIZED,
) -> Answer:
    """Send a request as plainly as can be."""
    connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=20)
    if isinstance(body, dict):
        body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    try:
        connection.request(method, path, body, headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def test_models_are_listed_and_described(house: House, server: OpenAIServer) -> None:
    port = house.serve(server.app)
    house.publish(a_service("a", port, model="org/large"), a_service("b", port, model="tiny"))
    listed = ask(house, "GET", "/v1/models").json
    assert listed["object"] == "list"
    assert [each["id"] for each in listed["data"]] == ["org/large", "tiny"]
    assert set(listed["data"][0]) == {"id", "object", "created", "owned_by"}
    for path in ("/v1/models/org/large", "/v1/models/org%2Flarge"):
        assert ask(house, "GET", path).json == listed["data"][0]
    assert ask(house, "GET", "/v1/models/none").error["code"] == "model_not_found"
    assert ask(house, "DELETE", "/v1/models/tiny").status == 405


def test_a_request_goes_to_the_service_that_serves_its_model(house: House) -> None:
    large, tiny = OpenAIServer(), OpenAIServer()
    house.publish(
        a_service("large", house.serve(large.app), model="large"),
        a_service("tiny", house.serve(tiny.app), model="tiny"),
    )
    assert ask(house, "POST", "/v1/chat/completions", CHAT).json["unknown_to_clients"] == "kept"
    assert (len(large.seen), len(tiny.seen)) == (0, 1)
    usage = house.usage()
    name = hashlib.sha256(TOKEN.encode()).hexdigest()[:8]
    assert (usage.model, usage.token, usage.errors) == ("tiny", name, 0)
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 3)


def test_our_token_does_not_reach_the_replica(house: House, server: OpenAIServer) -> None:
    house.publish(a_service("a", house.serve(server.app)))
    ask(house, "POST", "/v1/chat/completions", CHAT, {**AUTHORIZED, "X-Mine": "yes"})
    assert server.seen[0].headers["X-Mine"] == "yes"
    assert TOKEN not in str(server.seen[0].headers)


@pytest.mark.parametrize(
    "route",
    ["/completions", "/embeddings", "/rerank", "/images/generations?x=%20y&z", "/new/route"],
)
def test_every_route_is_found_by_the_model_in_its_body(
    house: House, server: OpenAIServer, route: str
) -> None:
    house.publish(
        a_service("a", house.serve(server.app)), a_service("b", house.serve(server.app), model="x")
    )
    assert ask(house, "POST", f"/v1{route}", {"model": "tiny", "any": [1.0, None]}).status == 200
    assert server.seen[0].path == f"/v1{route}"
    assert json.loads(server.seen[0].body) == {"model": "tiny", "any": [1.0, None]}


@pytest.mark.parametrize(
    ("prefix", "path"), [("/v1", "/v1/x"), ("/api/v3/", "/api/v3/x"), ("/", "/x"), ("o", "/o/x")]
)
def test_the_prefix_of_the_model_stands_for_v1(
    house: House, server: OpenAIServer, prefix: str, path: str
) -> None:
    model = ServedModel(name="tiny", format="openai", prefix=prefix)
    house.publish(a_service("a", house.serve(server.app), model=model))
    assert ask(house, "POST", "/v1/x", {"model": "tiny"}).json["path"] == path


@pytest.fixture
def keeper(house: House, server: OpenAIServer) -> OpenAIServer:
    port = house.serve(server.app)
    house.publish(a_service("a", port), a_service("b", port, model="other"))
    return server


@given(
    blob=st.binary(max_size=3000),
    text=st.text(max_size=50),
    order=st.booleans(),
    chunked=st.booleans(),
)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_bodies_pass_byte_for_byte(
    house: House, keeper: OpenAIServer, blob: bytes, text: str, order: bool, chunked: bool
) -> None:
    model, rest = b'"model" : "tiny"', json.dumps({"x": text, "y": blob.hex()}).encode()[1:-1]
    inner = [model, rest] if order else [rest, model]
    spaced = b" {" + b" ,\n\t".join(inner) + b"}\r\n"
    form = b"".join(
        b'--B\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (name, file, value)
        for name, file, value in (
            [(b"model", b"", b"tiny"), (b"file", b'; filename="model"', blob)][
                :: 1 if order else -1
            ]
        )
    )
    form += b"--B--\r\n"
    for body, kind in ((spaced, "application/json"), (form, "multipart/form-data; boundary=B")):
        headers = {**AUTHORIZED, "Content-Type": kind}
        sent: Any = iter([body[:7], body[7:]]) if chunked else body
        assert ask(house, "POST", "/v1/any", sent, headers).status == 200
        assert keeper.seen[-1].body == body
        assert keeper.seen[-1].headers["Content-Type"] == kind


def test_a_web_socket_names_its_model_in_its_address(house: House) -> None:
    app = web.Application()

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{request.path_qs} heard {message.data}")
        return socket

    app.router.add_get("/v1/realtime", talk)
    port = house.serve(app)
    house.publish(a_service("a", port), a_service("b", port, model="other"))

    async def speak() -> str:
        async with (
            ClientSession(headers=AUTHORIZED) as session,
            session.ws_connect(f"{house.url}/realtime?model=tiny") as socket,
        ):
            await socket.send_str("hello")
            return str(await socket.receive_str())

    assert house.call(speak()) == "/v1/realtime?model=tiny heard hello"
    assert house.usage().errors == 0


def test_an_unknown_model_is_told_what_there_is(house: House, server: OpenAIServer) -> None:
    port = house.serve(server.app)
    house.publish(*(a_service(f"s{n}", port, model=f"llama-{n}") for n in range(25)))
    answer = ask(house, "POST", "/v1/chat/completions", {**CHAT, "model": "lama-24"})
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"
    assert "The model `lama-24` does not exist. Did you mean `llama-24`?" in answer.error["message"]
    assert answer.error["message"].endswith("and 5 more.")
    assert house.ledger.usage() == ()


@pytest.mark.parametrize("host", ["127.0.0.1:1", "gateway.localhost:4180", "v1@localhost"])
def test_an_address_in_absolute_form_is_understood(
    house: House, server: OpenAIServer, host: str
) -> None:
    house.publish(a_service("a", house.serve(server.app)))
    answer = ask(house, "POST", f"http://{host}/v1/v1/x?y=/v1/z", {"model": "tiny"})
    assert answer.status == 421 if "@" in host else answer.json["path"] == "/v1/v1/x?y=/v1/z"


def test_a_large_body_is_found_its_way_without_being_parsed(
    house: House, server: OpenAIServer
) -> None:
    port = house.serve(server.app)
    house.publish(a_service("a", port), a_service("b", port, model="other"))
    body = json.dumps({"input": "x" * (3 << 20), "model": "tiny"}).encode()
    assert ask(house, "POST", "/v1/any", body).status == 200
    assert server.seen[0].body == body
    answer = ask(house, "POST", "/v1/any", body[:-1])
    assert (answer.status, "brackets do not match" in answer.error["message"]) == (400, True)


def test_bodies_find_no_room_beyond_what_there_is(
    house: House, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house.models._room, "_free", 1000)
    house.publish(a_service("a", house.serve(server.app)))
    for _ in range(5):
        assert ask(house, "POST", "/v1/any", {"model": "tiny", "x": "y" * 700}).status == 200
    answer = ask(house, "POST", "/v1/any", {"model": "tiny", "x": "y" * 1700})
    assert (answer.status, answer.error["code"]) == (503, "no_room")
    assert int(answer.headers["Retry-After"]) > 0
    wait_until(lambda: house.models._room._free == 1000, "all room is given back")


def test_a_body_that_does_not_come_is_not_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_engine.gateway.bodies.BODY_TIME", 0.05)
    house.publish(a_service("a"))
    answer = ask(house, "POST", "/v1/any", b"{", {**AUTHORIZED, "Content-Length": "100"})
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")


def test_a_service_s_limits_hold_at_both_doors(house: House, server: OpenAIServer) -> None:
    limit = RateLimit(prefix="/v1/", rps=0.02, burst=2)
    house.publish(a_service("a", house.serve(server.app), rate_limits=(limit,)))
    assert ask(house, "POST", "/services/a/v1/chat/completions", CHAT).status == 200
    assert ask(house, "POST", "/v1/chat/completions", CHAT).status == 200
    assert ask(house, "POST", "/services/a/v1/chat/completions", CHAT).status == 200
    answer = ask(house, "POST", "/v1/chat/completions", CHAT)
    assert (answer.status, answer.error["code"]) == (429, "rate_limited")
    assert int(answer.headers["Retry-After"]) > 1
    assert house.usage().requests == 1


def test_without_any_model_the_answer_says_so(house: House) -> None:
    answer = ask(house, "POST", "/v1/chat/completions", CHAT)
    assert answer.error["message"] == "The model `tiny` does not exist. No model is served now."
    assert ask(house, "GET", "/v1/responses/x").error["message"] == "No model is served now."


def test_what_names_no_model_goes_to_the_only_one(house: House, server: OpenAIServer) -> None:
    port = house.serve(server.app)
    house.publish(a_service("a", port))
    assert ask(house, "GET", "/v1/responses/resp_1?a=b").json["path"] == "/v1/responses/resp_1?a=b"
    assert ask(house, "DELETE", "/v1/files/f").status == 200
    assert ask(house, "POST", "/v1/responses/resp_1/cancel").status == 200
    house.publish(a_service("a", port), a_service("b", port, model="other"))
    answer = ask(house, "GET", "/v1/responses/resp_1")
    assert answer.status == 400
    assert answer.error["code"] == "model_required"
    assert "There are `other`, `tiny`." in answer.error["message"]
    assert ask(house, "GET", "/v1/responses/resp_1?model=tiny").status == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no JSON"),
        (b'{"model": "tiny"', "no JSON"),
        (b'{"model": "\xff"}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"model": 7}', "`model` must be a text, not int"),
    ],
)
def test_a_bad_body_is_answered_with_what_is_wrong(house: House, body: bytes, says: str) -> None:
    house.publish(a_service("a"))
    answer = ask(house, "POST", "/v1/chat/completions", body)
    assert answer.status == 400
    assert says in answer.error["message"]


def test_a_body_that_is_too_large_is_refused(house: House) -> None:
    house.publish(a_service("a"))
    headers = {**AUTHORIZED, "Content-Length": str(BODY_LIMIT + 1)}
    answer = ask(house, "POST", "/v1/chat/completions", None, headers)
    assert answer.status == 413
    assert "64 MB" in answer.error["message"]


@pytest.mark.parametrize(
    "path", ["/v1/../admin", "/v1/x/%2e%2E/../y", "/v1/x%2f..%2f..%5cy", "/v1/..;/y"]
)
def test_no_path_leads_out_of_the_prefix(house: House, server: OpenAIServer, path: str) -> None:
    house.publish(a_service("a", house.serve(server.app)))
    assert ask(house, "POST", path, {"model": "tiny"}).status in (400, 404)
    assert server.seen == []


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "x"}])
def test_without_the_token_nothing_is_told(
    house: House, server: OpenAIServer, headers: dict[str, str]
) -> None:
    port = house.serve(server.app)
    house.publish(a_service("a", port), a_service("b", port, model="open", auth=False))
    for model in ("tiny", "unknown"):
        answer = ask(house, "POST", "/v1/chat/completions", {**CHAT, "model": model}, headers)
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert ask(house, "GET", "/v1/models/tiny", headers=headers).status == 401
    listed = ask(house, "GET", "/v1/models", headers=headers).json["data"]
    assert [each["id"] for each in listed] == ["open"]
    assert ask(house, "POST", "/v1/x", {"model": "open"}, headers).status == 200
    assert house.usage().token == ""


def test_a_public_service_is_no_door_to_a_private_one_of_the_same_model(
    house: House, server: OpenAIServer
) -> None:
    port = house.serve(server.app)
    house.publish(a_service("a", port, auth=False), a_service("b", port, auth=True))
    assert ask(house, "POST", "/v1/chat/completions", CHAT, {}).status == 401
    assert ask(house, "GET", "/v1/models", headers={}).status == 401


def test_services_of_one_model_share_its_requests_by_ready_replicas(house: House) -> None:
    one, three = OpenAIServer(), OpenAIServer()
    ports = [house.serve(three.app)]
    house.publish(
        a_service("one", house.serve(one.app)),
        a_service("three", *ports * 3),
        a_service("none"),
    )
    for _ in range(120):
        ask(house, "POST", "/v1/chat/completions", CHAT)
    counts = Counter(one=len(one.seen), three=len(three.seen))
    assert counts.total() == 120
    assert 60 < counts["three"] < 115  # 90 are expected; 4 in a million fall outside


def test_a_model_that_is_being_started_holds_its_requests(
    house: House, server: OpenAIServer
) -> None:
    house.publish(a_service("a"))
    answers: list[Answer] = []
    asking = threading.Thread(
        target=lambda: answers.append(ask(house, "POST", "/v1/chat/completions", CHAT))
    )
    asking.start()
    wait_until(lambda: house.table.services["a"].holding.held == 1, "the request is held")
    house.publish(a_service("a", house.serve(server.app)))
    asking.join(20)
    assert answers[0].status == 200
    assert house.usage().first_token_seconds > 0


def test_a_model_that_is_being_stopped_says_so_in_openai_s_shape(house: House) -> None:
    house.publish(a_service("a", holds=False, trouble="replica 0 failed: exit code 1"))
    answer = ask(house, "POST", "/v1/chat/completions", CHAT)
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.error["message"] == "replica 0 failed: exit code 1"
    usage = house.usage()
    assert (usage.requests, usage.errors) == (1, 1)


def test_a_chunked_body_over_the_limit_is_refused_as_it_comes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_engine.gateway.bodies.BODY_LIMIT", 1000)
    house.publish(a_service("a"))
    answer = ask(house, "POST", "/v1/x", iter([b"x" * 600] * 3))  # type: ignore[arg-type]
    assert answer.status == 413
