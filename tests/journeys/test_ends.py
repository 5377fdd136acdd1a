"""How runs end: at their limit, politely, at once, after trying again; and all of a run ends."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import docker
import pytest

from dstack_engine.records.jobs import JobReason
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunReason, RunStatus
from tests.hosts.registries import Registry
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import DOCKER, EngineProcess, jobs_processes, until
from tests.journeys.witness import Witness, computers_address

#: Double fork, new session, deaf to polite signals: as far away from its run as a process gets.
GRANDCHILD = (
    'python3 -c "import os, signal, time; os.fork() and os._exit(0); os.setsid(); '
    "os.fork() and os._exit(0); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    '[os.close(fd) for fd in (0, 1, 2)]; time.sleep(1000)"'
)


@ON_BOTH_HOSTS
@pytest.mark.parametrize("end", ["by itself", "stopped", "aborted"])
def test_a_grandchild_that_hides_ends_with_its_run(
    offer: OfferId, engine: EngineProcess, end: str
) -> None:
    waits = "true" if end == "by itself" else "sleep 1000"
    text = f"stop_duration: 1s\ncommands:\n- {GRANDCHILD!r}\n- echo left\n- {waits!r}\n"
    name = engine.start().submit(text, offer).name
    engine.until_prints(name, b"left")
    if end != "by itself":
        engine.client.stop(name, abort=end == "aborted")
    engine.until_ended(name)
    assert jobs_processes(engine.home) == {}
    assert _sleepers() == 0


def _sleepers() -> int:
    """Return how many of the grandchildren live, whichever container they were in."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        count += b"os.setsid()" in words and b"time.sleep(1000)" in words and b"bash" not in words
    return count


@ON_BOTH_HOSTS
def test_a_stop_lets_a_trap_write_its_file(offer: OfferId, engine: EngineProcess) -> None:
    text = (
        "commands: ['trap \"sleep 0.3; echo kept > saved.txt; exit 0\" TERM', echo up, "
        "'while :; do sleep 0.1; done']"
    )
    name = engine.start().submit(text, offer).name
    engine.until_prints(name, b"up")
    engine.client.stop(name)
    view = engine.until_ended(name)
    assert (view.status, view.run.reason) == (RunStatus.TERMINATED, RunReason.STOPPED_BY_USER)
    assert b"kept\n" in b"".join(engine.client.read_files(name, "saved.txt"))


DEAF = (
    "stop_duration: 10m\n"
    "commands: ['trap \"echo no\" TERM', echo up, 'while :; do sleep 0.1; done']"
)


@ON_BOTH_HOSTS
def test_an_abort_is_at_once_also_during_a_graceful_stop(
    offer: OfferId, engine: EngineProcess
) -> None:
    name = engine.start().submit(DEAF, offer).name
    engine.until_prints(name, b"up")
    engine.client.stop(name)
    engine.until_prints(name, b"no")
    begun = time.monotonic()
    engine.client.stop(name, abort=True)
    view = engine.until_ended(name)
    assert view.status is RunStatus.TERMINATED
    assert time.monotonic() - begun < 60, "it took as long as its stop_duration lets it"
    assert jobs_processes(engine.home) == {}


@ON_BOTH_HOSTS
def test_a_stop_that_was_under_way_when_the_engine_died_is_finished(
    offer: OfferId, engine: EngineProcess
) -> None:
    text = DEAF.replace("10m", "3s")
    name = engine.start().submit(text, offer).name
    engine.until_prints(name, b"up")
    engine.client.stop(name)
    engine.until_prints(name, b"no")
    engine.kill()
    view = engine.start().until_ended(name)
    assert (view.status, view.run.reason) == (RunStatus.TERMINATED, RunReason.STOPPED_BY_USER)
    assert jobs_processes(engine.home) == {}


@pytest.mark.docker
def test_an_abort_during_a_pull_does_not_wait_for_it(
    engine: EngineProcess, open_registry: Registry, python_image: str, busybox_image: str
) -> None:
    with contextlib.closing(docker.from_env()) as client:
        image = open_registry.push(client, python_image, "slow/python:1")
    engine.settings = []
    engine.start()
    with open_registry.stalled():
        view = engine.submit(f"image: {image}\ncommands: [echo never]", DOCKER)
        engine.until(view.name, lambda v: v.job is not None and v.job.status == "pulling")
        engine.client.stop(view.name, abort=True)
        ended = engine.until_ended(view.name)
        assert ended.status is RunStatus.TERMINATED
        assert ended.job is not None
        assert ended.job.reason is JobReason.ABORTED_BY_USER
    # The same name again is another run: nothing of the abandoned pull stands in its way.
    engine.submit(f"name: {view.name}\nimage: {busybox_image}\ncommands: [echo again]", DOCKER)
    assert engine.until_ended(view.name).status is RunStatus.DONE


@ON_BOTH_HOSTS
def test_a_command_that_fails_twice_and_then_works_is_done(
    host: str, offer: OfferId, engine: EngineProcess
) -> None:
    with Witness("127.0.0.1" if host == "process" else computers_address()) as witness:
        report = witness.report("third-time-lucky")
        text = (
            "retry: {on_events: [error], duration: 1h}\n"
            f"commands:\n- {report!r}\n- echo attempt $count\n- test $count = 3\n"
        )
        name = engine.start().submit(text, offer).name
        view = engine.until(name, lambda view: view.finished, "the third attempt")
    assert view.status is RunStatus.DONE
    assert [job.reason for job in view.jobs] == [
        JobReason.CONTAINER_EXITED_WITH_ERROR,
        JobReason.CONTAINER_EXITED_WITH_ERROR,
        JobReason.DONE_BY_RUNNER,
    ]
    assert engine.output(name) == b"attempt 3\n"


@ON_BOTH_HOSTS
def test_max_duration_ends_a_run_with_a_reason(offer: OfferId, engine: EngineProcess) -> None:
    text = "max_duration: 1s\nstop_duration: 1s\ncommands: [echo up, sleep 1000]"
    view = engine.start().submit(text, offer)
    view = engine.until_ended(view.name)
    assert (view.status, view.run.reason) == (
        RunStatus.TERMINATED,
        RunReason.MAX_DURATION_EXCEEDED,
    )
    assert jobs_processes(engine.home) == {}


@pytest.mark.docker
def test_max_duration_ends_a_container_while_no_engine_lives(
    engine: EngineProcess, python_image: str
) -> None:
    engine.settings = [f"default_image: {python_image}"]
    text = "max_duration: 2s\nstop_duration: 1s\ncommands: [echo up, sleep 1000]"
    view = engine.start().submit(text, DOCKER)
    engine.until_prints(view.name, b"up")
    job = engine.client.run(view.name).job
    assert job is not None
    engine.kill()
    client = docker.from_env()
    until(lambda: client.containers.get(job.container).status == "exited", "the container to end")
    client.close()
    view = engine.start().until_ended(view.name)
    assert view.run.reason is RunReason.MAX_DURATION_EXCEEDED


@pytest.mark.docker
def test_max_duration_ends_an_images_own_command_too(
    engine: EngineProcess, python_image: str
) -> None:
    engine.settings = []
    text = f"max_duration: 2s\nstop_duration: 1s\nimage: {python_image}\nentrypoint: sleep 1000\n"
    view = engine.start().submit(text, DOCKER)
    view = engine.until_ended(view.name)
    assert view.run.reason is RunReason.MAX_DURATION_EXCEEDED
