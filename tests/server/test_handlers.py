"""The routes, asked as a page asks: under Jupyter's login, with a real engine behind."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError
from tornado.web import RequestHandler

from dstack_engine.client import Client
from dstack_engine.home import Home
from dstack_jupyter.server.asking import AUTH_RESOURCE
from dstack_jupyter.server.rows import NAMESPACE
from tests.server.conftest import Ask
from tests.server.runs import ended, start

METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
RECORDS = Path(__file__).parents[2] / "labextension" / "src" / "records.ts"


def our_handlers(app: Any) -> dict[str, type[RequestHandler]]:
    """Return every handler below our namespace, by its pattern."""
    rules = [rule for router in app.default_router.rules for rule in router.target.rules]
    return {
        rule.matcher.regex.pattern: rule.target
        for rule in rules
        if f"/{NAMESPACE}/" in getattr(rule.matcher, "regex", re.compile("")).pattern
    }


async def test_every_handler_is_authenticated_and_authorized(jp_serverapp: Any) -> None:
    ours = our_handlers(jp_serverapp.web_app)
    assert len(ours) >= 12
    for pattern, handler in ours.items():
        assert handler.auth_resource == AUTH_RESOURCE, pattern  # type: ignore[attr-defined]
        own = [name for name in METHODS if is_own(handler, name)]
        assert own, pattern
        for name in own:
            assert is_guarded(getattr(handler, name)), f"{handler}.{name} is open"


def is_own(handler: type[RequestHandler], name: str) -> bool:
    defined = next(base for base in handler.__mro__ if name in vars(base))
    return defined.__module__.startswith("dstack_jupyter")


def is_guarded(method: Callable[..., Any]) -> bool:
    """Tell whether `web.authenticated` is around `authorized` is around the method."""
    layers = [method]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    files = [Path(inspect.getfile(layer.__code__)).as_posix() for layer in layers]
    return files[0].endswith("tornado/web.py") and files[1].endswith("auth/decorator.py")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "version"),
        ("GET", "state"),
        ("GET", "runs"),
        ("DELETE", "runs/box"),
        ("POST", "runs/box/stop"),
        ("POST", "runs/box/rerun"),
        ("GET", "runs/box/logs"),
        ("GET", "runs/box/cell"),
        ("POST", "fleets/lab/examine"),
        ("DELETE", "fleets/lab"),
        ("POST", "engine/start"),
        ("POST", "offers"),
        ("POST", "check"),
        ("GET", "reference"),
        ("GET", "nothing/of/ours"),
    ],
)
async def test_nobody_comes_in_without_the_token(
    jp_fetch: Callable[..., Any], method: str, path: str
) -> None:
    with pytest.raises(HTTPClientError) as refused:
        await jp_fetch(
            "dstack-jupyter",
            *path.split("/"),
            method=method,
            headers={"Authorization": "token wrong"},
            allow_nonstandard_methods=True,
        )
    assert refused.value.code == 403
    assert not Home.of_user().engine_file.exists()


async def refused(asked: Any) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a refusal."""
    with pytest.raises(HTTPClientError) as error:
        await asked
    assert error.value.response is not None
    body = json.loads(error.value.response.body)
    assert body["message"]
    return error.value.code, body


async def test_what_is_no_route_is_refused_in_our_words(ask: Ask) -> None:
    for path in ("nothing", "runs/box/kill", "runs/../version", "v1/engine", "engine/stop"):
        status, body = await refused(ask(path))
        assert (status, body["code"]) == (404, "no-route"), path


async def test_a_look_starts_no_engine_and_says_so(ask: Ask) -> None:
    assert (await ask("version"))["engine"] is None
    state = await ask("state")
    assert state["engine"] == "down"
    assert state["runs"] == state["services"] == state["models"] == state["machines"] == []
    for path, body in (("runs", None), ("runs/box/cell", None), ("offers", {})):
        status, refusal = await refused(ask(path, body=body))
        assert (status, refusal["code"]) == (503, "engine-down")
    assert not Home.of_user().engine_file.exists()


async def test_the_engine_is_started_when_it_is_asked_for(ask: Ask) -> None:
    version = (await ask("engine/start", body={}))["engine"]
    assert version
    assert (await ask("version"))["engine"] == version
    assert (await ask("state"))["engine"] == "running"


async def test_a_page_lists_runs_and_stops_one(
    ask: Ask, jp_fetch: Callable[..., Any], client: Client
) -> None:
    start(client, "box", "sleep 300", env={"SECRET": "swordfish"})
    token = json.loads(Home.of_user().engine_file.read_text())["token"]
    for path in ("runs", "state", "runs/box/cell"):
        told = await jp_fetch("dstack-jupyter", *path.split("/"))
        assert b"box" in told.body
        assert b"swordfish" not in told.body
        assert token.encode() not in told.body
    assert [run["name"] for run in (await ask("runs"))["runs"]] == ["box"]

    assert (await ask("runs/box/stop", body={"abort": True}))["name"] == "box"
    assert client.run("box").run.abort


async def test_the_state_has_the_fields_that_the_page_reads(ask: Ask, client: Client) -> None:
    start(client, "box", "sleep 300", ports=["8000"])
    for update in client.updates():
        record = getattr(getattr(update, "event", None), "record", None)
        if getattr(record, "status", None) == "running":
            break
    state = await ask("state")
    assert state.keys() == fields_of("IState")
    (run,) = state["runs"]
    assert run.keys() == fields_of("IRunRow")
    assert run["type"] == "task"
    (port,) = run["ports"]
    assert port.keys() == fields_of("IPort")
    assert port["proxy"] == "dstack-jupyter/ports/box/8000/"
    (machine,) = state["machines"]
    assert machine.keys() == fields_of("IMachineRow")
    assert machine["runs"] == ["box"]
    assert machine["idle_until"] is None


def fields_of(interface: str) -> set[str]:
    """Return the names of the fields of an interface in `records.ts`."""
    found = re.search(rf"interface {interface} {{(.*?)\n}}", RECORDS.read_text(), re.DOTALL)
    assert found, interface
    return set(re.findall(r"^  (\w+)\??:", found[1], re.MULTILINE))


async def test_what_is_wrong_comes_back_as_a_sentence(
    ask: Ask, jp_fetch: Callable[..., Any], client: Client
) -> None:
    for path, body, code in (
        ("runs/nobody/stop", {}, "not-found"),
        ("runs/nobody/stop", {"abort": 1}, "argument"),
        ("runs/nobody/stop", [], "argument"),
        ("runs/nobody/rerun", {}, "not-found"),
        ("offers", {"text": 1}, "argument"),
        ("offers", {"password": "x"}, "argument"),
        ("offers", {"yaml": "type: task\ncommands: [x]\nresources: {gpu: []}"}, "configuration"),
        ("check", {"text": None}, "argument"),
        ("check", {"text": "x" * 300_000}, "too-large"),
    ):
        _, answer = await refused(ask(path, body=body))
        assert answer["code"] == code, path
    for body in ("nonsense", "[" * 5000):
        nonsense = jp_fetch("dstack-jupyter", "check", method="POST", body=body)
        assert (await refused(nonsense))[1]["code"] == "argument"
    for query in ({"offset": "-1"}, {"tail": "x"}, {"replica": "9" * 30}):
        asked = jp_fetch("dstack-jupyter", "runs", "box", "logs", params=query)
        assert (await refused(asked))[1]["code"] == "argument"


async def test_a_request_without_the_page_s_word_is_not_heard(
    jp_fetch: Callable[..., Any], client: Client
) -> None:
    start(client, "box", "sleep 300")
    login = await log_in(jp_fetch)
    for path, method in (("runs/box/stop", "POST"), ("runs/box", "DELETE"), ("check", "POST")):
        status, _ = await refused(
            jp_fetch(
                "dstack-jupyter",
                *path.split("/"),
                method=method,
                headers={"Authorization": "none", "Cookie": login},
                allow_nonstandard_methods=True,
            )
        )
        assert status == 403
    assert client.run("box").run.stop_requested_at is None
    listed = await jp_fetch(
        "dstack-jupyter", "runs", headers={"Authorization": "none", "Cookie": login}
    )
    assert json.loads(listed.body)["runs"]


async def log_in(jp_fetch: Callable[..., Any]) -> str:
    """Return the cookie of a browser that has logged in, which any site's form would send."""
    answer = await jp_fetch("dstack-jupyter", "version")
    cookies = [cookie.split(";")[0] for cookie in answer.headers.get_list("Set-Cookie")]
    return next(cookie for cookie in cookies if cookie.startswith("username-"))


async def test_an_ended_run_is_started_again_and_forgotten(ask: Ask, client: Client) -> None:
    start(client, "box", 'echo "word: $WORD"', env={"WORD": "swordfish"})
    assert ended(client, "box").status == "done"
    first = client.run("box").run.id

    again = await ask("runs/box/rerun", body={})
    assert again["name"] == "box"
    assert client.run("box").run.id != first
    assert ended(client, "box").status == "done"
    assert "word: swordfish" in "".join(piece["text"] for piece in await output(ask, "box"))

    assert await ask("runs/box", method="DELETE") is None
    assert (await ask("state"))["runs"] == []


async def test_a_living_run_is_started_again_beside_itself(ask: Ask, client: Client) -> None:
    start(client, "box", "sleep 300")
    again = await ask("runs/box/rerun", body={})
    assert again["name"] != "box"
    assert {run["name"] for run in (await ask("runs"))["runs"]} == {"box", again["name"]}
    status, refusal = await refused(ask("runs/box", method="DELETE"))
    assert (status, refusal["code"]) == (409, "conflict")


async def output(ask: Ask, name: str) -> list[dict[str, Any]]:
    """Return what the run printed."""
    answer = await ask.fetch("dstack-jupyter", "runs", name, "logs")  # type: ignore[attr-defined]
    return [json.loads(line) for line in answer.body.splitlines()]


async def test_offers_are_planned_for_a_cell_and_for_resources(ask: Ask, client: Client) -> None:
    for body in (
        {},
        {"cpu": "1..", "memory": "1MB.."},
        {"text": "%%dstack task --cpu 1.. -e NOT_SET\ncommands: [x]\nenv: [NOR_THIS]"},
        {"yaml": "type: service\ncommands: [x]\nport: 80"},
    ):
        answer = await ask("offers", body=body)
        assert answer["total_offers"] == len(answer["offers"]) >= 1, body
        assert fields_of("IOfferRow") == answer["offers"][0].keys()
    answer = await ask("offers", body={"gpu": "H100:8", "memory": "9000GB"})
    assert answer["offers"] == []
    assert answer["refused"][0]["reasons"]


async def test_a_cell_is_checked_line_by_line(ask: Ask) -> None:
    cell = "%%dstack task\ncommands: [x]\nresorces:\n  gpu: 1\nmax_price: -1"
    problems = await ask("check", body={"text": cell})
    assert [(one["line"], one["key"]) for one in problems] == [(3, "resorces"), (5, "max_price")]
    assert await ask("check", body={"text": "%%dstack task\ncommands: [x]"}) == []


async def test_the_reference_tells_of_every_key(ask: Ask) -> None:
    reference = await ask("reference")
    assert reference["task"]["resources.gpu"]
    assert reference["service"]["scaling.metric"]
    assert {"task", "service", "dev-environment", "fleet", "gateway", "volume"} <= reference.keys()
