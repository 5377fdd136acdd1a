"""The Docker Engine has a bad day: it is restarted, killed, away, or its disk is full.

Always a private one, with a small disk in memory; the machine's own notices nothing.
"""

from __future__ import annotations

import pytest

from dstack_engine.records.jobs import JobReason
from dstack_engine.records.runs import RunStatus, RunView
from tests.hosts.engines import PrivateDockerd
from tests.hosts.fixtures import MakeDockerd
from tests.journeys.engines import DOCKER, EngineProcess

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def of(dockerd: PrivateDockerd, image: str) -> list[str]:
    """Return settings of an engine that uses *dockerd* and runs *image*."""
    return [f"default_image: {image}", f"local: {{docker_host: '{dockerd.host}'}}"]


def counting(to: int) -> str:
    """Return a command that counts every 20 ms."""
    return f"'i=0; while [ $i -lt {to} ]; do i=$((i+1)); echo $i; usleep 20000; done'"


def reasons(view: RunView) -> list[JobReason | None]:
    return [job.reason for job in view.jobs]


def test_a_run_under_a_docker_engine_that_is_restarted_was_interrupted(
    engine: EngineProcess, private_dockerd: MakeDockerd, busybox_image: str
) -> None:
    dockerd = private_dockerd()
    engine.settings = of(dockerd, busybox_image)
    name = engine.start().submit("commands: [echo up, sleep 1000]", DOCKER).name
    engine.until_prints(name, b"up")
    dockerd.restart()
    view = engine.until_ended(name)
    assert (view.status, reasons(view)) == (RunStatus.FAILED, [JobReason.INTERRUPTED])
    assert engine.output(name) == b"up\n"
    again = engine.submit("commands: [echo again]", DOCKER).name
    assert engine.until_ended(again).status is RunStatus.DONE


def test_an_interruption_is_retried_where_that_is_wished(
    engine: EngineProcess, private_dockerd: MakeDockerd, busybox_image: str
) -> None:
    dockerd = private_dockerd()
    engine.settings = of(dockerd, busybox_image)
    text = "retry: {on_events: [interruption], duration: 1h}\ncommands: [echo up, sleep 4]"
    name = engine.start().submit(text, DOCKER).name
    engine.until_prints(name, b"up")
    dockerd.kill()
    dockerd.start()
    view = engine.until_ended(name)
    assert view.status is RunStatus.DONE, engine.log_tail()
    assert reasons(view) == [JobReason.INTERRUPTED, JobReason.DONE_BY_RUNNER]


def test_a_run_goes_on_under_a_docker_engine_that_restores_its_containers(
    engine: EngineProcess, private_dockerd: MakeDockerd, busybox_image: str
) -> None:
    dockerd = private_dockerd(live_restore=True)
    engine.settings = of(dockerd, busybox_image)
    name = engine.start().submit(f"commands: [{counting(300)}]", DOCKER).name
    engine.until_prints(name, b"\n20\n")
    dockerd.restart()
    view = engine.until_ended(name)
    assert view.status is RunStatus.DONE, engine.log_tail()
    lines = engine.output(name).split()
    assert [int(line) for line in lines] == sorted({int(line) for line in lines})
    assert lines[-1] == b"300"


def test_a_run_is_found_again_when_engine_and_docker_were_both_away(
    engine: EngineProcess, private_dockerd: MakeDockerd, busybox_image: str
) -> None:
    dockerd = private_dockerd()
    engine.settings = of(dockerd, busybox_image)
    name = engine.start().submit("commands: [echo up, sleep 1000]", DOCKER).name
    engine.until_prints(name, b"up")
    engine.kill()
    dockerd.kill()
    engine.start()
    waiting = engine.client.run(name)
    assert not waiting.finished
    dockerd.start()
    assert reasons(engine.until_ended(name)) == [JobReason.INTERRUPTED]


def test_a_run_whose_docker_engine_is_away_can_be_stopped_when_it_is_back(
    engine: EngineProcess, private_dockerd: MakeDockerd, busybox_image: str
) -> None:
    dockerd = private_dockerd()
    engine.settings = of(dockerd, busybox_image)
    name = engine.start().submit("commands: [echo up, sleep 1000]", DOCKER).name
    engine.until_prints(name, b"up")
    dockerd.kill()
    engine.client.stop(name, abort=True)
    dockerd.start()
    view = engine.until_ended(name)
    assert view.status is RunStatus.TERMINATED
    containers = dockerd.client.containers.list()
    assert containers == []


def test_a_full_disk_of_docker_is_said_and_the_next_run_works_when_there_is_room(
    engine: EngineProcess, private_dockerd: MakeDockerd, busybox_image: str
) -> None:
    dockerd = private_dockerd(disk_mb=96)
    engine.settings = of(dockerd, busybox_image)
    engine.start()
    dockerd.fill_disk()
    view = engine.submit("commands: [echo up]", DOCKER)
    view = engine.until_ended(view.name)
    assert view.status is RunStatus.FAILED
    assert reasons(view) == [JobReason.CREATING_CONTAINER_ERROR]
    assert "full" in (view.jobs[0].detail or "")
    dockerd.free_disk()
    again = engine.submit("commands: [echo up]", DOCKER).name
    assert engine.until_ended(again).status is RunStatus.DONE
    assert engine.output(again) == b"up\n"


def test_a_disk_that_fills_under_a_run_is_the_runs_error_not_the_engines(
    engine: EngineProcess, private_dockerd: MakeDockerd, busybox_image: str
) -> None:
    dockerd = private_dockerd(disk_mb=96)
    engine.settings = of(dockerd, busybox_image)
    text = "commands: [echo up, 'dd if=/dev/zero of=/big bs=1M', echo not reached]"
    name = engine.start().submit(text, DOCKER).name
    view = engine.until_ended(name)
    assert view.status is RunStatus.FAILED
    assert reasons(view) == [JobReason.CONTAINER_EXITED_WITH_ERROR]
    engine.client.delete(name)
    engine.client.prune()
    again = engine.submit("commands: [echo up]", DOCKER).name
    assert engine.until_ended(again).status is RunStatus.DONE
