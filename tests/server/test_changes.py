"""Changes as a page hears them: over Jupyter's event channel, from a real engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dstack_engine.client import Client
from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_jupyter.server.asking import SETTING
from dstack_jupyter.server.changes import MOST_ROWS, News
from tests.server.conftest import Ask
from tests.server.listening import Listener
from tests.server.runs import start


async def test_a_run_is_told_of_from_its_start_to_its_end(
    ask: Ask, client: Client, events: Listener
) -> None:
    await events.open()
    assert (await ask("state"))["runs"] == []
    start(client, "box", "sleep 300", env={"WORD": "swordfish"}, ports=["8000"])
    running = await events.until_run("box", status="running")
    assert running["ports"][0]["port"] == 8000
    assert running["finished"] is False
    await ask("runs/box/stop", body={"abort": True})
    over = await events.until_run("box", finished=True)
    assert over["status"] == "terminated"
    assert over["ports"] == []
    client.delete("box")
    await events.until(lambda change: change.get("deleted") == ["box"])
    told = json.dumps(events.heard)
    assert "swordfish" not in told
    assert json.loads(Home.of_user().engine_file.read_text())["token"] not in told
    assert client.token() not in told


async def test_the_machine_is_told_of_with_the_runs_on_it(
    ask: Ask, client: Client, events: Listener
) -> None:
    await events.open()
    await ask("state")
    start(client, "box", "sleep 300")

    def is_there(change: dict[str, Any]) -> bool:
        return any(machine["runs"] == ["box"] for machine in change.get("machines", ()))

    def is_free(change: dict[str, Any]) -> bool:
        return any(machine["runs"] == [] for machine in change.get("machines", ()))

    await events.until(is_there)
    client.stop("box", abort=True)
    await events.until(is_free)


async def test_nothing_of_other_runs_is_told_again(
    ask: Ask, client: Client, events: Listener
) -> None:
    await events.open()
    await ask("state")
    start(client, "old", "sleep 300")
    await events.until_run("old", status="running")
    start(client, "box", "true")
    await events.until_run("box", finished=True)
    events.heard.clear()
    start(client, "next", "true")
    await events.until_run("next", finished=True)
    assert {row["name"] for change in events.heard for row in change.get("runs", ())} == {"next"}


async def test_an_engine_that_is_killed_is_told_of_and_so_is_the_next(
    ask: Ask, client: Client, events: Listener
) -> None:
    await events.open()
    start(client, "box", "sleep 300")
    assert (await ask("state"))["engine"] == "running"
    os.kill(client.engine().pid, signal.SIGKILL)
    await events.until(lambda change: change.get("engine") == "down")
    assert (await ask("state"))["engine"] == "down"

    await ask("engine/start", body={})
    back = await events.until(lambda change: change.get("engine") == "running")
    assert back["reload"] is True
    assert [run["name"] for run in (await ask("state"))["runs"]] == ["box"]
    client.stop("box", abort=True)
    await events.until_run("box", finished=True)


async def test_an_engine_that_is_stopped_is_not_started_by_watching(
    ask: Ask, client: Client, events: Listener
) -> None:
    await events.open()
    await ask("state")
    await asyncio.get_running_loop().run_in_executor(None, client.stop_engine)
    await events.until(lambda change: change.get("engine") == "down")
    assert (await ask("state"))["engine"] == "down"
    with await asyncio.get_running_loop().run_in_executor(None, connect, Home.of_user()):
        await events.until(lambda change: change.get("engine") == "running")


async def test_a_page_that_came_before_the_engine_hears_of_it(ask: Ask, events: Listener) -> None:
    await events.open()
    assert (await ask("state"))["engine"] == "down"
    await ask("engine/start", body={})
    await events.until(lambda change: change.get("engine") == "running")


async def test_a_crowd_of_changes_tells_pages_to_look_anew(
    ask: Ask, client: Client, jp_serverapp: Any, events: Listener
) -> None:
    await events.open()
    await ask("state")
    changes = jp_serverapp.web_app.settings[SETTING]
    changes._take(changes._watch, News(runs={f"run-{i}" for i in range(MOST_ROWS + 1)}))
    told = await events.until(lambda change: "reload" in change)
    assert not told.get("runs")


def watchers() -> list[threading.Thread]:
    """Return the threads that read engines' streams for pages."""
    return [one for one in threading.enumerate() if one.name == "dstack-changes"]


async def test_nobody_watches_before_a_page_looks_or_after_none_does(
    ask: Ask, client: Client, jp_serverapp: Any
) -> None:
    assert not watchers()
    await ask("version")
    await ask("runs")
    assert not watchers()
    await ask("state")
    await ask("state")
    (watcher,) = watchers()
    jp_serverapp.web_app.settings[SETTING].stop()  # as when it has heard of no page for long
    await asyncio.get_running_loop().run_in_executor(None, watcher.join, 60)
    assert not watcher.is_alive()
    await ask("state")
    assert len(watchers()) == 1


@pytest.fixture
def many_looks(ask: Ask) -> Callable[[], Any]:
    """Looks as twenty pages do."""
    return lambda: asyncio.gather(*(ask("state") for _ in range(20)))


async def test_twenty_pages_have_one_watcher(many_looks: Callable[[], Any], client: Client) -> None:
    states = await many_looks()
    assert {state["engine"] for state in states} == {"running"}
    assert len(watchers()) == 1
