"""A service on machines of one's own: replicas on several, one of them lost, and nobody notices."""

from __future__ import annotations

import socket

import httpx
import pytest

from dstack_engine.records.jobs import JobReason, JobStatus
from dstack_engine.records.runs import RunStatus
from tests.hosts.bed import Bed
from tests.journeys.engines import EngineProcess, until
from tests.journeys.fleets import Lab
from tests.journeys.traffic import Crowd, a_service
from tests.journeys.visitors import Visitors

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def lab(engine: EngineProcess, bed: Bed, bed_python_image: str) -> Lab:
    """A fleet of the bed's hosts, ready; Python is what runs there."""
    with socket.create_server(("127.0.0.1", 0)) as free:  # other tests' gateways want 4180
        port = free.getsockname()[1]
    engine.settings = [f"default_image: {bed_python_image}", "local: {docker: false}"]
    engine.settings += [f"gateway: {{port: {port}}}"]
    engine.patience = (8, 12)
    engine.start()
    lab = Lab(engine, bed)
    lab.apply()
    return lab.ready()


def test_a_port_of_a_task_comes_here_from_its_machine(lab: Lab) -> None:
    made = "mkdir page, echo far away > page/index.html"
    serve = "exec python3 -m http.server --directory page 8000"
    run = lab.submit(f"commands: [{made}, {serve}]\nports: ['*:8000']").name

    def answers() -> bool:
        job = lab.client.run(run).job
        if job is None or not job.routes:
            return False
        try:
            page = httpx.get(f"http://127.0.0.1:{job.routes[0].local_port}/", trust_env=False)
        except httpx.TransportError:
            return False
        return page.text == "far away\n"

    until(answers, "the page", lab.facts)


def test_no_request_is_lost_when_a_machine_of_a_service_is(lab: Lab) -> None:
    visitors = Visitors(lab.engine)
    lab.client.submit(a_service(docker=True, replicas=2, fleets=["lab"]), offers=[])
    visitors.until_ready("web", 2)
    homes = {job.offer.instance_type for job in lab.client.run("web").jobs if job.offer}
    assert len(homes) == 2
    lost = lab.host_of("web")
    with Crowd(visitors, askers=4, streams=0) as crowd:
        crowd.until_answered(100)
        lost.kill()
        lab.until_silent(lost)
        crowd.until_answered(200)
        lab.until(lambda: len(lab.client.run("web").jobs) == 3, "a third replica")
        visitors.until_ready("web", 2)
        crowd.until_answered(200)
    # What the lost machine had begun to say cannot be said by another one.
    assert len(crowd.failures) <= crowd.askers
    assert all("IncompleteRead" in failure for failure in crowd.failures), crowd.failures
    jobs = lab.client.run("web").jobs
    assert sorted(job.reason or "" for job in jobs) == ["", "", JobReason.INTERRUPTED]
    lost.poweron()
    lab.ready()
    living = [job.container for job in jobs if job.status is JobStatus.RUNNING]
    lab.until(lambda: lab.containers() == sorted(living), "two containers and no more")
    lab.client.stop("web")
    assert lab.engine.until_ended("web").status is RunStatus.TERMINATED
    lab.delete()
    assert lab.containers(running=False) == []
