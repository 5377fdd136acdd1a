"""Jupyter Server's side, asked as a page asks: under its login, with a real engine behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError

from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_jupyter.server import handlers
from dstack_jupyter.session import close_session

pytest_plugins = ["pytest_jupyter.jupyter_server"]


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


async def test_every_handler_is_authenticated_and_authorized(jp_serverapp: Any) -> None:
    ours = [value for value in vars(handlers).values() if _is_handler(value)]
    assert len(ours) >= 3
    for handler in ours:
        assert handler.auth_resource == "dstack"
        methods = [
            name for name in ("get", "post", "put", "delete", "patch") if name in vars(handler)
        ]
        assert methods, handler
        for name in methods:
            # Both decorators leave what they wrap behind: two layers, no less.
            assert hasattr(vars(handler)[name], "__wrapped__"), f"{handler}.{name} is open"
            assert hasattr(vars(handler)[name].__wrapped__, "__wrapped__"), f"{handler}.{name}"


def _is_handler(value: object) -> bool:
    base = handlers.DstackHandler
    return isinstance(value, type) and issubclass(value, base) and value is not base


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "version"), ("GET", "runs"), ("POST", "runs/box/stop")]
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


async def test_a_look_starts_no_engine_and_says_so(jp_fetch: Callable[..., Any]) -> None:
    version = await jp_fetch("dstack-jupyter", "version")
    assert json.loads(version.body)["engine"] is None
    with pytest.raises(HTTPClientError) as refused:
        await jp_fetch("dstack-jupyter", "runs")
    assert refused.value.code == 503
    assert json.loads(refused.value.response.body)["code"] == "engine-down"
    assert not Home.of_user().engine_file.exists()


async def test_a_page_lists_runs_and_stops_one(jp_fetch: Callable[..., Any]) -> None:
    task = {
        "type": "task",
        "name": "box",
        "commands": ["sleep 300"],
        "env": {"SECRET": "swordfish"},
        "instance_types": ["process"],
    }
    with connect(Home.of_user()) as client:
        client.submit(configuration_from_dict(task))  # type: ignore[arg-type]  # a task
        listed = await jp_fetch("dstack-jupyter", "runs")
        assert [run["name"] for run in json.loads(listed.body)["runs"]] == ["box"]
        assert b"swordfish" not in listed.body
        token = json.loads(Home.of_user().engine_file.read_text())["token"]
        assert token.encode() not in listed.body

        stopped = await jp_fetch(
            "dstack-jupyter", "runs", "box", "stop", method="POST", body='{"abort": true}'
        )
        assert json.loads(stopped.body)["name"] == "box"
        assert client.run("box").run.abort


async def test_what_is_wrong_comes_back_as_a_sentence(jp_fetch: Callable[..., Any]) -> None:
    for name, body, code in (
        ("nobody", "{}", "not-found"),
        ("nobody", '{"abort": 1}', "argument"),
        ("nobody", "nonsense", "argument"),
    ):
        with pytest.raises(HTTPClientError) as refused:
            await jp_fetch("dstack-jupyter", "runs", name, "stop", method="POST", body=body)
        answer = json.loads(refused.value.response.body)
        assert answer["code"] == code
        assert answer["message"]
