"""The engine's loops over fakes: what runs go through, told as stories."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dstack_engine.backends.registry import Registry
from dstack_engine.backends.ssh import SshBackend
from dstack_engine.engine import Engine
from dstack_engine.errors import (
    Conflict,
    CursorTooOld,
    ImageUnavailable,
    NoOffers,
    NotFound,
    Refused,
)
from dstack_engine.files.blobs import BlobStore
from dstack_engine.home import Home
from dstack_engine.live import Live
from dstack_engine.reconcilers.world import World
from dstack_engine.records.jobs import JobReason, JobStatus
from dstack_engine.records.offers import HostKind, MachineShape, Offer, OfferId
from dstack_engine.records.runs import RunReason, RunStatus, RunView
from dstack_engine.settings import LocalSettings, Settings
from dstack_engine.spec.configurations import Runnable
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_engine.store.store import Store
from dstack_engine.testing import FakeBackend, FakeGatewayLink, FakeHost, FakeMachines

PATIENCE = 20.0
SHAPE = MachineShape(cpus=4, memory_gb=16.0, disk_gb=500.0)


def an_offer(host: HostKind) -> Offer:
    return Offer(OfferId(f"local/{host}"), "local", "local", str(host), host, SHAPE, 0.0)


class Ground:
    """An engine over fakes, in this process."""

    def __init__(self, home: Home, max_jobs: int = 10) -> None:
        self.docker = FakeHost(kind=HostKind.DOCKER)
        self.process = FakeHost(kind=HostKind.PROCESS)
        self.machines = FakeMachines()
        self.backend = FakeBackend("local", [an_offer(k) for k in HostKind])
        self.gateway = FakeGatewayLink(lambda report: self.world.heed(report))
        store = Store(home.make().database)
        ssh = SshBackend(lambda: (kept.record for kept in store.instances(finished=False)))
        self.world = World(
            home=home,
            settings=Settings(local=LocalSettings(max_jobs=max_jobs)),
            store=store,
            live=Live(),
            blobs=BlobStore(home),
            hosts={HostKind.DOCKER: self.docker, HostKind.PROCESS: self.process},
            machines=self.machines,
            backends=Registry([self.backend, ssh]),
            gateway=self.gateway,
            port_taken=lambda port: port == 6666,
        )
        self.world.loops["reaper"] = _Deaf()  # type: ignore[assignment]  # housekeeping's, not here
        self.engine = Engine(self.world)
        self._changed = threading.Event()
        self.world.live.subscribe(self._changed.set)
        self.engine.start()

    def submit(self, number: int = 1, **written: object) -> RunView:
        wanted = a_task(**written)
        return self.engine.submit(wanted, submission=f"submission-{number}")

    def until(self, name: str, condition: Callable[[RunView], object]) -> RunView:
        for _ in range(int(PATIENCE / 0.2)):
            view = self.engine.run(name)
            if condition(view):
                return view
            self._changed.wait(0.2)
            self._changed.clear()
        raise AssertionError(f"{name} is {self.engine.run(name)}")

    def wait(self, condition: Callable[[], object]) -> None:
        for _ in range(int(PATIENCE / 0.2)):
            if condition():
                return
            self._changed.wait(0.2)
            self._changed.clear()
        raise AssertionError("what was waited for did not come")

    def until_status(self, name: str, status: RunStatus) -> RunView:
        return self.until(name, lambda view: view.status is status)

    def close(self) -> None:
        for host in (self.docker, self.process):
            for name, container in list(host.machine.containers.items()):
                if container.lines is not None:
                    host.stop(name, timedelta(0))
        self.engine.stop()
        self.world.store.close()


class _Deaf:
    def wake(self, _key: str, _delay: object = None) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


def a_task(**written: object) -> Runnable:
    task = {"type": "task", "name": "fox", "commands": ["sleep 9"], **written}
    return configuration_from_dict(task)  # type: ignore[return-value]  # a task is runnable


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(Home(tmp_path / "home"))
    yield ground
    ground.close()


def container_of(view: RunView) -> str:
    assert view.job is not None
    return view.job.container


def test_a_run_goes_from_submitted_to_done_and_tells_every_step(ground: Ground) -> None:
    ground.submit()
    view = ground.until_status("fox", RunStatus.RUNNING)
    ground.docker.finish(container_of(view))
    view = ground.until_status("fox", RunStatus.DONE)
    assert view.job is not None
    assert (view.job.status, view.job.exit_code) == (JobStatus.DONE, 0)
    statuses = [
        event.record.status
        for event in ground.engine.history(after=0, run="fox", limit=100)
        if not hasattr(event.record, "configuration")
    ]
    assert statuses == ["submitted", "provisioning", "pulling", "running", "terminating", "done"]
    assert [call for call, _ in ground.docker.calls].count("start") == 1


def test_the_same_submission_sent_twice_is_one_run(ground: Ground) -> None:
    first, second = ground.submit(), ground.submit()
    assert first.run.id == second.run.id
    assert len(ground.engine.runs(everything=True)) == 1


def test_a_living_name_is_refused_and_an_ended_one_gives_way(ground: Ground) -> None:
    ground.submit()
    with pytest.raises(Conflict, match="named 'fox'"):
        ground.submit(2)
    view = ground.until_status("fox", RunStatus.RUNNING)
    ground.docker.finish(container_of(view))
    ground.until_status("fox", RunStatus.DONE)
    again = ground.submit(2)
    assert again.run.id != view.run.id
    assert [v.name for v in ground.engine.runs(everything=True)] == ["fox"]


def test_an_image_that_cannot_be_had_leads_to_the_next_offer_with_the_reason(
    ground: Ground,
) -> None:
    ground.docker.failures.arrange("prepare", ImageUnavailable("no such image"))
    ground.submit()
    view = ground.until_status("fox", RunStatus.RUNNING)
    assert view.job is not None
    assert view.job.offer is not None
    assert view.job.offer.host is HostKind.PROCESS
    assert [(t.offer, t.why) for t in view.job.tried] == [("local/docker", "no such image")]


def test_with_no_offer_left_the_run_fails_for_the_last_reason(ground: Ground) -> None:
    ground.docker.failures.arrange("prepare", ImageUnavailable("no such image"))
    ground.submit(image="nowhere/nothing:1")
    view = ground.until("fox", lambda view: view.finished)
    assert view.job is not None
    assert (view.run.reason, view.job.reason) == (RunReason.JOB_FAILED, JobReason.IMAGE_UNAVAILABLE)
    assert "no such image" in (view.job.detail or "")


def test_a_stop_ends_the_container_and_a_second_one_changes_nothing(ground: Ground) -> None:
    ground.submit()
    ground.until_status("fox", RunStatus.RUNNING)
    ground.engine.stop_run("fox")
    view = ground.until_status("fox", RunStatus.TERMINATED)
    assert view.run.reason is RunReason.STOPPED_BY_USER
    assert ground.engine.stop_run("fox").run == view.run


def test_a_failed_run_is_tried_again_as_its_author_said(ground: Ground) -> None:
    ground.submit(retry={"on_events": ["error"]})
    view = ground.until_status("fox", RunStatus.RUNNING)
    ground.docker.finish(container_of(view), exit_code=1)
    second = ground.until(
        "fox", lambda v: v.job and v.job.attempt == 2 and v.job.status is JobStatus.RUNNING
    )
    ground.docker.finish(container_of(second))
    view = ground.until_status("fox", RunStatus.DONE)
    assert [job.status for job in view.jobs] == [JobStatus.FAILED, JobStatus.DONE]


def test_a_host_that_does_not_answer_is_waited_for(ground: Ground) -> None:
    ground.docker.set_unreachable(True)
    ground.submit()
    ground.until("fox", lambda view: view.job and view.job.status is JobStatus.PULLING)
    ground.docker.set_unreachable(False)
    ground.until_status("fox", RunStatus.RUNNING)


def test_more_than_fits_waits_its_turn_with_the_reason(tmp_path: Path) -> None:
    ground = Ground(Home(tmp_path / "home"), max_jobs=1)
    try:
        ground.submit(1, name="first")
        first = ground.until_status("first", RunStatus.RUNNING)
        ground.submit(2, name="second")
        waiting = ground.until("second", lambda view: view.job and view.job.waiting)
        assert waiting.job is not None
        assert "1 of 1 jobs" in (waiting.job.waiting or "")
        ground.docker.finish(container_of(first))
        ground.until_status("second", RunStatus.RUNNING)
    finally:
        ground.close()


def test_an_abort_does_not_wait_for_the_grace_of_a_stop(ground: Ground) -> None:
    ground.submit(stop_duration="1h")
    view = ground.until_status("fox", RunStatus.RUNNING)
    ground.docker.machine.containers[container_of(view)].trap = "never"
    ground.engine.stop_run("fox", abort=True)
    view = ground.until_status("fox", RunStatus.TERMINATED)
    assert view.job is not None
    assert view.job.status is JobStatus.ABORTED


def test_a_run_without_a_fitting_offer_is_refused_with_reasons(ground: Ground) -> None:
    with pytest.raises(NoOffers, match="no GPU"):
        ground.submit(resources={"gpu": "24GB"})
    assert ground.engine.runs(everything=True) == []


def test_a_taken_port_is_told_before_anything_is_saved(ground: Ground) -> None:
    with pytest.raises(Conflict, match="6666"):
        ground.submit(ports=["6666:80"])
    assert ground.engine.runs(everything=True) == []


def test_what_this_version_cannot_start_is_said(ground: Ground) -> None:
    wanted = configuration_from_dict({"type": "dev-environment", "ide": "vscode"})
    with pytest.raises(Refused, match="dev-environment"):
        ground.engine.submit(wanted, submission="submission-1")  # type: ignore[arg-type]


def test_a_missing_run_is_told_with_one_that_is_like_it(ground: Ground) -> None:
    ground.submit()
    with pytest.raises(NotFound) as refusal:
        ground.engine.run("foxx")
    assert "'fox'" in (refusal.value.hint or "")


def test_an_active_run_is_not_deleted(ground: Ground) -> None:
    ground.submit()
    with pytest.raises(Conflict, match="fox"):
        ground.engine.delete_run("fox")
    view = ground.until_status("fox", RunStatus.RUNNING)
    ground.docker.finish(container_of(view))
    ground.until_status("fox", RunStatus.DONE)
    ground.engine.delete_run("fox")
    assert ground.engine.runs(everything=True) == []


def test_a_variable_that_only_its_name_is_known_of_is_refused(ground: Ground) -> None:
    with pytest.raises(Refused, match="TOKEN"):
        ground.submit(env=["TOKEN"])


def test_a_place_in_the_stream_that_is_forgotten_is_refused_not_skipped(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.submit()
    ground.until_status("fox", RunStatus.RUNNING)
    assert ground.engine.find_cursor("1").sequence == 1
    monkeypatch.setattr("dstack_engine.store.store.EVENTS_KEPT", 2)
    ground.world.store.forget_old_events()
    newest = ground.world.store.last_sequence()
    with pytest.raises(CursorTooOld):
        ground.engine.find_cursor("1")
    assert ground.engine.find_cursor(str(newest - 2)).sequence == newest - 2
    assert ground.engine.find_cursor(None).sequence == newest


def test_a_new_engine_goes_on_where_the_old_one_was(ground: Ground, tmp_path: Path) -> None:
    ground.submit()
    view = ground.until_status("fox", RunStatus.RUNNING)
    ground.engine.stop()
    later = replace(
        ground.world, loops={"reaper": _Deaf()}, activities=type(ground.world.activities)(),
        hosts={**ground.world.hosts, HostKind.DOCKER: FakeHost(ground.docker.machine)},
    )  # fmt: skip
    engine = Engine(later)
    engine.start()
    ground.engine, ground.world = engine, later
    ground.docker.finish(container_of(view))
    ground.until_status("fox", RunStatus.DONE)
    host = later.hosts[HostKind.DOCKER]
    assert isinstance(host, FakeHost)
    assert "start" not in [verb for verb, _ in host.calls]
