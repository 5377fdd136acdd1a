"""Services through the real engine and the real gateway: good days and bad ones.

On bad days a crowd asks all the while, in short requests and in streams: none may fail, and none
may be cut.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_engine.errors import EngineDown, EngineError
from dstack_engine.home import Home
from dstack_engine.records.jobs import JobReason, JobStatus
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.updates import ServiceSeen
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import EngineProcess, processes_of, until
from tests.journeys.traffic import Asker, Crowd

SCALING = {"metric": "concurrency", "target": 100, "scale_down_delay": 0, "window": "30s"}


@pytest.fixture
def asker(engine: EngineProcess) -> Iterator[Asker]:
    """Who asks an engine on which services are plain processes."""
    engine.start()
    yield Asker(engine)
    engine.end_runs()


@pytest.fixture
def host_asker(offer: OfferId, engine: EngineProcess) -> Iterator[Asker]:
    """Who asks an engine on the test's host."""
    engine.start()
    yield Asker(engine, offer)
    engine.end_runs()


def gateways(home: Home) -> list[int]:
    """Return the processes of the home's gateway."""
    found = processes_of(home)
    return [pid for pid, words in found.items() if "dstack_engine.gateway" in words]


# --- good days -----------------------------------------------------------------------------------


@ON_BOTH_HOSTS
def test_a_service_answers_at_its_address_with_each_of_its_replicas(host_asker: Asker) -> None:
    engine = host_asker.engine
    host_asker.serve(replicas=2, model="tiny")
    host_asker.until_served_by("web-0-0/1", "web-0-1/1")
    with Crowd(host_asker, streams=1, lines=5) as crowd:
        crowd.until_answered(100, streams=1)
        until(
            lambda: {answer["job"] for answer in crowd.answers} == {"web-0-0/1", "web-0-1/1"},
            "both replicas to answer",
        )
    assert crowd.failures == []
    (model,) = engine.client.models()
    assert (model.name, model.runs, model.ready_replicas) == ("tiny", ("web",), 2)
    assert b"listens" in b"".join(f.payload for f in engine.client.logs("web", replica=1))
    engine.client.stop("web")
    view = engine.until_ended("web")
    assert view.status is RunStatus.TERMINATED
    assert {job.reason for job in view.jobs} == {JobReason.TERMINATED_BY_USER}


@ON_BOTH_HOSTS
def test_the_first_request_wakes_a_service_from_zero_and_is_answered(host_asker: Asker) -> None:
    host_asker.serve(replicas="0..1", scaling=SCALING)
    host_asker.engine.until("web", lambda view: view.status is RunStatus.PENDING)
    answer = host_asker.get("web")
    assert (answer.status_code, answer.json()["job"]) == (200, "web-0-0/1")


def test_a_service_that_nobody_asks_goes_to_zero_and_is_woken_again(asker: Asker) -> None:
    asker.serve(replicas="0..1", scaling=SCALING)
    assert asker.get("web").status_code == 200
    # Nothing asks any more, and the average over the window of half a minute falls to nothing.
    asker.engine.until(
        "web",
        lambda view: (
            view.run.service and view.run.service.scaled_at and view.run.service.desired == 0
        ),
    )
    view = asker.engine.until("web", lambda view: view.status is RunStatus.PENDING)
    assert view.jobs[0].reason is JobReason.SCALED_DOWN
    assert asker.get("web").status_code == 200


def test_traffic_is_told_on_the_event_stream(asker: Asker) -> None:
    asker.serve()
    asker.until_served_by("web-0-0/1")
    updates = asker.engine.client.updates()
    for update in updates:
        if isinstance(update, ServiceSeen) and update.report.requests > 0:
            break
        assert asker.get("web").status_code == 200


def test_a_service_that_crashes_again_and_again_says_why_and_is_tried_less_and_less(
    asker: Asker,
) -> None:
    asker.serve(commands=["echo no such model >&2", "exit 3"])
    view = asker.engine.until("web", lambda view: len(view.jobs) == 3)
    view = asker.engine.until("web", lambda view: view.run.service and view.run.service.resting)
    assert view.run.service is not None
    (rest,) = view.run.service.resting
    assert rest.why == "ended with an error: exit code 3"
    assert view.status is RunStatus.PENDING
    ended = [job.finished_at for job in view.jobs]
    begun = [job.submitted_at for job in view.jobs]
    assert ended[0] is not None
    assert ended[1] is not None
    pauses = [(begun[n + 1] - ended[n]).total_seconds() for n in range(2)]  # type: ignore[operator]
    assert pauses[0] >= 1
    assert pauses[1] >= 5


def test_a_token_is_needed_where_the_author_does_not_say_otherwise(asker: Asker) -> None:
    asker.serve()
    asker.until_served_by("web-0-0/1")
    connection = asker.connect()
    connection.request("GET", "/services/web/")
    assert connection.getresponse().status == 401
    connection.close()
    asker.serve(auth=False)
    connection = asker.connect()

    def let_in() -> bool:
        connection.request("GET", "/services/web/")
        answer = connection.getresponse()
        answer.read()
        return answer.status == 200

    until(let_in, "the gateway to know that no token is needed")
    connection.close()
    assert len(asker.engine.client.run("web").jobs) == 1


def test_the_engine_leaves_the_gateway_as_long_as_a_service_lives(asker: Asker) -> None:
    engine = asker.engine
    asker.serve()
    asker.until_served_by("web-0-0/1")
    before = gateways(engine.home)
    engine.stop()
    assert gateways(engine.home) == before
    engine.start()
    asker.until_served_by("web-0-0/1")
    assert gateways(engine.home) == before
    engine.client.stop("web")
    engine.until_ended("web")
    engine.stop()
    until(lambda: not gateways(engine.home), "the gateway to end")


def test_as_many_replicas_are_started_as_the_requests_under_way_ask_for(asker: Asker) -> None:
    scaling = {"metric": "concurrency", "target": 2, "scale_up_delay": 0}
    asker.serve(replicas="1..3", scaling=scaling)
    asker.until_served_by("web-0-0/1")
    with Crowd(asker, askers=1, streams=5) as crowd:
        asker.until_served_by("web-0-0/1", "web-0-1/1", "web-0-2/1")
        crowd.until_answered(10, streams=5)
    assert crowd.failures == []
    view = asker.engine.client.run("web")
    assert view.run.service is not None
    assert (view.run.service.scaled_why or "").endswith("requests under way, 2 for each replica")


def test_the_log_of_one_replica_is_followed_through_its_attempts(asker: Asker) -> None:
    asker.serve(replicas=2)
    asker.until_served_by("web-0-0/1", "web-0-1/1")
    lines = asker.engine.client.logs("web", replica=1, follow=True)
    assert b"listens" in next(lines).payload
    os.kill(_process_of(asker.engine, "web-0-1/1"), signal.SIGKILL)
    assert any(b"listens" in frame.payload for frame in lines)
    asker.until_served_by("web-0-0/1", "web-0-1/2")


# --- bad days, under load ------------------------------------------------------------------------


@ON_BOTH_HOSTS
def test_a_newer_configuration_replaces_every_replica_and_no_request_fails(
    host_asker: Asker,
) -> None:
    host_asker.serve(replicas=2)
    host_asker.until_served_by("web-0-0/1", "web-0-1/1")
    with Crowd(host_asker) as crowd:
        crowd.until_answered(100, streams=1)
        host_asker.serve(replicas=2, env={"VERSION": "2"})
        host_asker.until_served_by("web-0-1/2", "web-0-2/1")
        crowd.until_answered(100, streams=2)
    assert crowd.failures == []
    assert crowd.versions == {"1", "2"}
    view = host_asker.engine.client.run("web")
    ended = {job.id: job.reason for job in view.jobs if job.finished}
    assert ended == {"web-0-0/1": JobReason.REPLACED, "web-0-1/1": JobReason.REPLACED}


def test_two_processes_of_the_gateway_replace_and_drain_together(engine: EngineProcess) -> None:
    engine.settings.append("gateway: {processes: 2}")
    engine.start()
    asker = Asker(engine)
    asker.serve(replicas=2)
    asker.until_served_by("web-0-0/1", "web-0-1/1")
    with Crowd(asker, askers=6, streams=4) as crowd:
        crowd.until_answered(100, streams=2)
        asker.serve(replicas=1, env={"VERSION": "2"})
        until(lambda: "2" in crowd.versions, "the newer version to answer")
        engine.until("web", lambda view: sum(not job.finished for job in view.jobs) == 1)
        crowd.until_answered(50)
    assert crowd.failures == []
    assert len(gateways(engine.home)) >= 2
    engine.end_runs()


def test_a_scale_down_cuts_no_stream_and_fails_no_request(asker: Asker) -> None:
    asker.serve(replicas=3)
    asker.until_served_by("web-0-0/1", "web-0-1/1", "web-0-2/1")
    with Crowd(asker, streams=6) as crowd:
        crowd.until_answered(100, streams=3)
        asker.serve(replicas=1)
        asker.until_served_by("web-0-0/1")
        crowd.until_answered(50, streams=1)
    assert crowd.failures == []
    view = asker.engine.client.run("web")
    assert [job.reason for job in view.jobs[1:]] == [JobReason.SCALED_DOWN] * 2


def test_a_stop_lets_what_is_being_answered_come_to_its_end(asker: Asker) -> None:
    asker.serve()
    asker.until_served_by("web-0-0/1")
    connection = asker.connect()
    connection.request("GET", "/services/web/stream?40", headers=asker.authorization)
    answer = connection.getresponse()
    assert answer.readline() == b"data: 0\n"
    asker.engine.client.stop("web")
    assert answer.read().count(b"data: ") == 39
    connection.close()
    assert asker.engine.until_ended("web").status is RunStatus.TERMINATED


def test_who_waits_for_a_replica_that_never_comes_is_told_when_its_service_is_stopped(
    asker: Asker,
) -> None:
    asker.serve(commands=["sleep 600 # never listens at $DSTACK_SERVICE_PORT"])
    asker.engine.until("web", lambda view: view.status is RunStatus.RUNNING)
    connection = asker.connect()
    connection.request("GET", "/services/web/", headers=asker.authorization)

    def held() -> bool:
        report = asker.engine.client.service("web")
        return report is not None and report.held == 1

    until(held, "the request to be held", lambda: asker.facts("web"))
    asker.engine.client.stop("web")
    answer = connection.getresponse()
    assert answer.status == 503
    assert b"stopped" in answer.read()
    connection.close()
    asker.engine.until_ended("web")
    until(lambda: asker.get("web").status_code == 404, "the gateway to know it no more")


def test_an_engine_killed_and_started_again_loses_no_request(asker: Asker) -> None:
    engine = asker.engine
    asker.serve(replicas=2)
    asker.until_served_by("web-0-0/1", "web-0-1/1")
    with Crowd(asker) as crowd:
        for _ in range(3):
            crowd.until_answered(50)
            engine.kill()
            crowd.until_answered(50, streams=1)
            engine.start()
            asker.until_served_by("web-0-0/1", "web-0-1/1")
        crowd.until_answered(50)
    assert crowd.failures == []
    assert [job.status for job in engine.client.run("web").jobs] == [JobStatus.RUNNING] * 2


def test_a_killed_replica_is_replaced_while_the_other_answers(asker: Asker) -> None:
    engine = asker.engine
    asker.serve(replicas=2)
    asker.until_served_by("web-0-0/1", "web-0-1/1")
    with Crowd(asker, streams=0) as crowd:
        crowd.until_answered(50)
        os.kill(_process_of(engine, "web-0-1/1"), signal.SIGKILL)
        asker.until_served_by("web-0-0/1", "web-0-1/2")
        crowd.until_answered(50)
    # At most what it was just answering is lost.
    assert len(crowd.failures) <= crowd.askers, crowd.failures
    view = engine.client.run("web")
    assert view.status is RunStatus.RUNNING
    assert {job.id: job.reason for job in view.jobs if job.finished} == {
        "web-0-1/1": JobReason.KILLED_BY_SIGNAL
    }


def test_a_newer_configuration_that_crashes_leaves_the_old_replica_serving(asker: Asker) -> None:
    asker.serve()
    asker.until_served_by("web-0-0/1")
    with Crowd(asker, streams=1) as crowd:
        asker.serve(commands=["exit 4"])
        view = asker.engine.until(
            "web", lambda view: [job.id for job in view.jobs][-1] == "web-0-1/2"
        )
        view = asker.engine.until("web", lambda view: view.run.service and view.run.service.resting)
        crowd.until_answered(50)
        asker.serve(env={"VERSION": "3"})
        until(lambda: "3" in crowd.versions, "the repaired version to answer")
    assert crowd.failures == []
    assert view.run.service is not None
    assert view.run.service.resting[0].why == "ended with an error: exit code 4"


def test_one_port_for_all_replicas_is_replaced_by_giving_way_and_requests_wait(
    asker: Asker,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    asker.serve(port=port, commands=_on_port(port, "1"))
    asker.until_served_by("web-0-0/1")
    with Crowd(asker, streams=0) as crowd:
        crowd.until_answered(20)
        asker.serve(port=port, commands=_on_port(port, "2"))
        until(lambda: "2" in crowd.versions, "the newer version to answer")
    assert crowd.failures == []


def _on_port(port: int, version: str) -> list[str]:
    return [
        f"""echo '{{"version": "{version}"}}' > index.html""",
        f"exec python3 -m http.server --bind 127.0.0.1 {port}",
    ]


def _process_of(engine: EngineProcess, job: str) -> int:
    for pid, words in processes_of(engine.home).items():
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        if f"DSTACK_JOB_ID={job}".encode() in environment.split(b"\0") and "replica.py" in words:
            return pid
    raise AssertionError(f"no process of {job}")


@pytest.mark.parametrize(
    "steps",
    [(20,), pytest.param(tuple(range(4, 100, 4)), marks=pytest.mark.soak)],
    ids=["once", "at-many-steps"],
)
def test_an_engine_that_dies_while_it_replaces_replicas_loses_no_request(
    steps: tuple[int, ...], engine: EngineProcess
) -> None:
    engine.start()
    asker = Asker(engine)
    view = asker.serve(replicas=2)
    asker.until_served_by("web-0-0/1", "web-0-1/1")
    with Crowd(asker, streams=1, lines=10) as crowd:
        for number, step in enumerate(steps, 2):
            engine.kill()
            engine.start(kill_at=step)
            _submit_in_spite_of_crashes(asker, str(number))
            view = _until_replaced(engine, number)
            crowd.until_answered(20)
            engine.kill()  # at whichever step it would have died later
            engine.start()
    assert crowd.failures == []
    assert view.run.service is not None
    assert view.run.service.deployment == len(steps) + 1
    engine.end_runs()


def _submit_in_spite_of_crashes(asker: Asker, version: str) -> None:
    def submitted() -> bool:
        if asker.engine.ended:
            asker.engine.start()
        with contextlib.suppress(EngineDown, EngineError):
            asker.serve(replicas=2, env={"VERSION": version})
            return True
        return False

    until(submitted, f"version {version} to be submitted", asker.engine.log_tail)


def _until_replaced(engine: EngineProcess, deployment: int) -> RunView:
    """Return the service once all its replicas are of that configuration."""
    seen: list[RunView] = []

    def replaced() -> bool:
        if engine.ended:
            engine.start()
        with contextlib.suppress(EngineDown, EngineError):
            seen[:] = [engine.client.run("web")]
        return bool(seen) and _is_all_of(seen[0], deployment)

    until(replaced, f"deployment {deployment}", lambda: f"{seen}\n{engine.log_tail()}")
    return seen[0]


def _is_all_of(view: RunView, deployment: int) -> bool:
    living = [job for job in view.jobs if not job.finished]
    running = [job for job in living if job.status is JobStatus.RUNNING]
    return len(living) == len(running) == 2 and {job.deployment for job in living} == {deployment}
