"""A fleet of machines of one's own has good days and bad ones: nothing is lost, nothing doubled."""

from __future__ import annotations

import pytest

from dstack_engine.records.runs import RunStatus
from tests.hosts.bed import Bed
from tests.journeys.engines import EngineProcess
from tests.journeys.fleets import Lab

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def lab(engine: EngineProcess, bed: Bed, busybox_image: str) -> Lab:
    """A fleet of the bed's hosts, not applied yet; busybox is what runs there."""
    engine.settings = [f"default_image: {busybox_image}", "local: {docker: false}"]
    engine.patience = (8, 12)
    engine.start()
    return Lab(engine, bed)


def test_a_task_runs_on_a_machine_of_the_fleet_and_nothing_is_left_when_that_is_deleted(
    lab: Lab,
) -> None:
    lab.apply()
    lab.ready()
    name = lab.submit("commands: [echo up, hostname]").name
    view = lab.engine.until_ended(name)
    assert view.status is RunStatus.DONE
    assert lab.engine.output(name).startswith(b"up\n")
    lab.delete()
    assert lab.containers(running=False) == []
    assert [host.docker.volumes.list() for host in lab.bed.hosts] == [[], [], []]
