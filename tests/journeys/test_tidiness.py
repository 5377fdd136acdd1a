"""What is over goes away: by `delete`, by `prune`, after its time; at the uninstall all of it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import docker
import pytest

from dstack_engine.errors import Conflict, NotFound
from dstack_engine.home import Home
from dstack_engine.reconcilers.containers import home_labels
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunStatus
from dstack_engine.records.updates import LogWritten
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import EngineProcess, processes_of, until


def remains(engine: EngineProcess) -> list[str]:
    """Return the names of what is left of jobs: folders, logs and containers."""
    home = engine.home
    found = [path.name for folder in (home.jobs, home.logs) for path in folder.iterdir()]
    return sorted(found + _containers(home))


def _containers(home: Home) -> list[str]:
    labels = [f"{name}={value}" for name, value in home_labels(home).items()]
    with (
        contextlib.suppress(docker.errors.DockerException),
        contextlib.closing(docker.from_env()) as client,
    ):
        found = client.containers.list(all=True, filters={"label": labels})
        return [f"container {container.name}" for container in found]
    return []


def ended_run(engine: EngineProcess, offer: OfferId) -> str:
    name = engine.submit("commands: [echo hi]", offer).name
    engine.until_ended(name)
    return name


@ON_BOTH_HOSTS
def test_a_deleted_run_is_gone_with_all_that_it_had(offer: OfferId, engine: EngineProcess) -> None:
    name = ended_run(engine.start(), offer)
    assert len(remains(engine)) == 2
    engine.client.delete(name)
    until(lambda: remains(engine) == [], "everything to go")
    with pytest.raises(NotFound):
        engine.client.run(name)


@ON_BOTH_HOSTS
def test_a_prune_leaves_active_runs_alone(offer: OfferId, engine: EngineProcess) -> None:
    ended_run(engine.start(), offer)
    active = engine.submit("commands: [echo up, sleep 1000]", offer).name
    engine.until_prints(active, b"up")
    told = engine.client.prune()
    assert (told.runs, told.containers) == (0, 1)
    assert told.logs_bytes > 0
    job = engine.client.run(active).job
    assert job is not None
    left = [name.removeprefix("container ") for name in remains(engine)]
    assert left == [job.container] * 2
    with pytest.raises(Conflict, match="is running"):
        engine.client.delete(active)
    engine.client.stop(active, abort=True)
    engine.until_ended(active)
    assert engine.client.prune(everything=True).runs == 2
    assert remains(engine) == []
    assert engine.client.runs(everything=True) == []


@ON_BOTH_HOSTS
def test_what_ended_long_ago_goes_by_itself(offer: OfferId, engine: EngineProcess) -> None:
    engine.settings.append("keep_ended_for: 1h")
    clock = engine.home.make().root / "clock"
    ended_run(engine.start(clock=clock), offer)
    engine.stop()
    assert len(remains(engine)) == 2
    engine.start(clock=clock)
    assert len(remains(engine)) == 2
    engine.stop()
    clock.write_text("7200")
    engine.start(clock=clock)
    until(lambda: remains(engine) == [], "what is old to go", lambda: remains(engine))


@ON_BOTH_HOSTS
def test_a_name_that_is_used_again_is_another_run_with_another_output(
    offer: OfferId, engine: EngineProcess
) -> None:
    engine.start().submit("name: fox\ncommands: [echo a long first output]", offer)
    engine.until_ended("fox")
    cursor, heard = _hear(engine, "0")
    assert heard == b"a long first output\n"
    engine.submit("name: fox\ncommands: [echo second]", offer)
    assert engine.until_ended("fox").status is RunStatus.DONE
    assert engine.output("fox") == b"second\n"
    assert _hear(engine, cursor)[1] == b"second\n"


def _hear(engine: EngineProcess, cursor: str) -> tuple[str, bytes]:
    """Return what the stream tells of the run's output after *cursor*, and where it ended."""
    heard = b""
    for update in engine.client.updates(cursor=cursor, logs=["fox"], reconnect=False):
        if isinstance(update, LogWritten):
            heard, cursor = heard + update.frame.payload, update.cursor
            if heard.endswith(b"\n"):
                break
    return cursor, heard


def documented_commands() -> list[list[str]]:
    """Return our own commands of the documentation, in its order, to be run by this Python."""
    text = (Path(__file__).parents[2] / "docs/uninstall.md").read_text()
    block = text.partition("## To take everything away")[2].split("```")[1]
    lines = [line.partition("#")[0].split() for line in block.splitlines()]
    ours = [words[1:] for words in lines if words[:1] == ["dstack-jupyter"] and "NAME" not in words]
    return [[str(Path(sys.executable).with_name("dstack-jupyter")), *words] for words in ours]


@ON_BOTH_HOSTS
@pytest.mark.slow
def test_the_documented_uninstall_leaves_nothing(offer: OfferId, engine: EngineProcess) -> None:
    ended_run(engine.start(), offer)
    active = engine.submit("commands: [echo up, sleep 1000]", offer).name
    engine.until_prints(active, b"up")
    commands = documented_commands()
    assert len(commands) >= 3
    for command in commands:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    until(lambda: engine.ended and not processes_of(engine.home), "the engine to go")
    shutil.rmtree(engine.home.root)
    assert _containers(engine.home) == []
