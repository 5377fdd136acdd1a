"""Write docs/states.md: how runs, jobs, machines and fleets move, found by asking the decisions.

Every status is put before every situation that the decisions know; each change of status becomes an
arrow. Called by hand after a change of `dstack_engine.decisions`; a test asks `page` whether the
page is fresh.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from inspect import getsource
from pathlib import Path

from dstack_engine.decisions.fleets import advance_fleet
from dstack_engine.decisions.instances import MachineSighting, advance_instance, advance_machine
from dstack_engine.decisions.jobs import (
    PATIENCE,
    JobSighting,
    NoPlace,
    Placed,
    Silence,
    Unfit,
    Waits,
    advance_job,
)
from dstack_engine.decisions.runs import RETRY_EVENTS, RetryRule, advance_run
from dstack_engine.decisions.services import advance_service
from dstack_engine.enums import StrEnum
from dstack_engine.records.findings import Finding
from dstack_engine.records.fleets import Fleet, FleetStatus
from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus, Machine
from dstack_engine.records.jobs import Job, JobId, JobReason, JobStatus, Reservation
from dstack_engine.records.machines import Examination, SshTarget
from dstack_engine.records.offers import HostKind, MachineShape, Offer, OfferId
from dstack_engine.records.publication import Load, ServiceReport
from dstack_engine.records.runs import Run, RunId, RunReason, RunStatus
from dstack_engine.records.services import ServiceState
from dstack_engine.records.sightings import Container, Sighting
from dstack_engine.spec.configurations import ServiceConfiguration, TaskConfiguration
from dstack_engine.spec.fleets import FleetConfiguration

PAGE = Path(__file__).parents[1] / "docs/states.md"

#: From a status to another: what makes it move.
Arrows = dict[tuple[str, str], list[str]]

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SHAPE = MachineShape(2, 8.0)
OFFER = Offer(OfferId("local/docker"), "local", "local", "docker", HostKind.DOCKER, SHAPE, 0.0)
TASK = TaskConfiguration(type="task", commands=["true"])

_HEAD = """# States

Made from the decisions by `python scripts/states.py`; change those, not this page. Each arrow says
what was seen when the record moved on.
"""


def page() -> str:
    """Return the whole page."""
    parts = [
        _HEAD,
        *_section("A run: a task", RunStatus, run_arrows()),
        *_section("A run: a service", RunStatus, service_arrows()),
        "A replica that is to leave is first *retiring*: the gateway gives it nothing new, and\n"
        "its job is told to end once it has answered everything, or its time for that is over.\n",
        *_section("A job: one attempt of a run", JobStatus, job_arrows()),
        "While a job's machine does not answer, the job keeps its status and says so. Only when\n"
        "that has lasted too long (20 minutes; 2 where it is retried elsewhere) it is\n"
        "interrupted.\n",
        *_section("An instance: our record of a machine", InstanceStatus, instance_arrows()),
        "This computer's instance never ends: nothing is given back there. A machine that is\n"
        "reached by SSH stays `provisioning` while something must be mended first; one that does\n"
        "not answer keeps its status, and says since when.\n",
        *_section("A fleet: machines with one name", FleetStatus, fleet_arrows()),
        "Applied again while it is being let go, or when it is gone, it is `submitted` anew.\n",
    ]
    return "\n".join(parts)


def _section(title: str, statuses: type[StrEnum], arrows: Arrows) -> Iterator[str]:
    yield f"## {title}\n"
    yield "```mermaid\nstateDiagram-v2"
    for (before, after), causes in arrows.items():
        yield f"    {before} --> {after}: {'; '.join(causes)}"
    for last in (s for s in statuses if getattr(s, "finished", False)):
        yield f"    {last} --> [*]"
    yield "```\n"
    yield "| status | meaning |\n|---|---|"
    yield from (f"| `{status}` | {meaning} |" for status, meaning in meanings(statuses).items())
    yield ""


def meanings(statuses: type[StrEnum]) -> Mapping[str, str]:
    """Return each status with the sentence that stands beside it in the source."""
    found = re.findall(r'= "([a-z-]+)"  #: (.+)', getsource(statuses))
    assert [word for word, _ in found] == [str(status) for status in statuses]
    return dict(found)


# --- jobs -------------------------------------------------------------------------------------


def _ended(**facts: object) -> JobSighting:
    return JobSighting(
        container=Sighting(Container.EXITED, **facts),  # type: ignore[arg-type]
        drained=True,
    )


JOB_SITUATIONS: dict[str, JobSighting] = {
    "it has a place": JobSighting(placed=Placed(OFFER, "local", Reservation())),
    "it waits for room": JobSighting(placed=Waits("waits for 1 GPU")),
    "no offer is left": JobSighting(placed=NoPlace("no offer is left")),
    "its instance is ready": JobSighting(instance_ready=True),
    "its container is up": JobSighting(container=Sighting(Container.UP)),
    "it cannot be prepared there, so the next offer is tried": JobSighting(
        unfit=Unfit("no image", JobReason.IMAGE_UNAVAILABLE)
    ),
    "exit code 0": _ended(exit_code=0),
    "another exit code": _ended(exit_code=3),
    "a signal": _ended(signal=int(signal.SIGKILL)),
    "out of memory": _ended(out_of_memory=True),
    "its host went down": _ended(interrupted=True),
    "its machine has not answered for too long": JobSighting(
        silence=Silence("lab-0", "Connection timed out", PATIENCE)
    ),
    "its machine is ours no more": JobSighting(lost="lab-0 is ours no more"),
    "its container is gone": JobSighting(container=Sighting(Container.ABSENT), drained=True),
    "max_duration": JobSighting(max_duration=timedelta(seconds=1), ran=timedelta(hours=1)),
    "stopped": JobSighting(wish=JobReason.TERMINATED_BY_USER),
    "aborted": JobSighting(wish=JobReason.ABORTED_BY_USER),
    "its run ends": JobSighting(wish=JobReason.TERMINATED_BY_SERVER),
}


def job_arrows() -> Arrows:
    """Return how a job moves: from every status, in every situation."""
    arrows: Arrows = {}
    for status in (s for s in JobStatus if not s.finished and s is not JobStatus.TERMINATING):
        for cause, seen in JOB_SITUATIONS.items():
            after = advance_job(_job(status), seen, NOW)
            _add(arrows, status, after.status, cause)
    for reason in JobReason:
        ending = replace(_job(JobStatus.TERMINATING), reason=reason)
        after = advance_job(ending, JobSighting(stopped=True, drained=True), NOW)
        _add(arrows, JobStatus.TERMINATING, after.status, reason.value)
    return arrows


def _job(status: JobStatus, *, number: int = 0, reason: JobReason | None = None) -> Job:
    placed = status is not JobStatus.SUBMITTED
    return Job(
        id=JobId(f"fox-{number}-0/1"),
        run_id="1",
        run_name="fox",
        node=number,
        replica=0,
        attempt=1,
        status=status,
        since=NOW,
        submitted_at=NOW,
        reason=reason,
        offer=OFFER if placed else None,
        placed_at=NOW if placed else None,
        started_at=NOW if placed else None,
    )


# --- runs -------------------------------------------------------------------------------------

_FAILED = _job(JobStatus.FAILED, reason=JobReason.CONTAINER_EXITED_WITH_ERROR)

#: The jobs that a run has, in words.
RUN_SITUATIONS: dict[str, tuple[Job, ...]] = {
    "its jobs wait": (_job(JobStatus.SUBMITTED),),
    "a job has a place": (_job(JobStatus.PROVISIONING),),
    "a job is prepared": (_job(JobStatus.PULLING),),
    "a job runs": (_job(JobStatus.RUNNING),),
    "all jobs are done": (_job(JobStatus.DONE, reason=JobReason.DONE_BY_RUNNER),),
    "a job failed": (_FAILED,),
    "a job failed, others go on": (_FAILED, _job(JobStatus.RUNNING, number=1)),
    "a job reached its max_duration": (
        _job(JobStatus.TERMINATED, reason=JobReason.MAX_DURATION_EXCEEDED),
    ),
}


def run_arrows() -> Arrows:
    """Return how a run moves: from every status, with every kind of jobs, asked and not."""
    arrows: Arrows = {}
    retry = RetryRule(frozenset(RETRY_EVENTS), timedelta(hours=1))
    spent = replace(retry, spent=timedelta(hours=2))
    for status in (s for s in RunStatus if not s.finished and s is not RunStatus.TERMINATING):
        run = _run(status)
        for cause, jobs in RUN_SITUATIONS.items():
            follow = _following(run, jobs)
            _add(arrows, status, follow(None), cause)
            if _FAILED in jobs:
                _add(arrows, status, follow(retry), f"{cause} and is retried")
                _add(arrows, status, follow(spent), f"{cause} and the time for retries is over")
        if status is RunStatus.PENDING:
            due = replace(run, retry_at=NOW)
            _add(arrows, status, _following(due, (_FAILED,))(retry), "its next attempt is due")
        for cause, abort in (("stopped", False), ("aborted", True)):
            asked = replace(run, stop_requested_at=NOW, abort=abort)
            _add(arrows, status, _following(asked, (_job(JobStatus.RUNNING),))(None), cause)
    for reason in RunReason:
        ending = replace(_run(RunStatus.TERMINATING), reason=reason)
        after = advance_run(ending, (_job(JobStatus.DONE),), None, 1, NOW).run
        _add(arrows, RunStatus.TERMINATING, after.status, reason.value)
    return arrows


def _following(run: Run, jobs: tuple[Job, ...]) -> Callable[[RetryRule | None], RunStatus]:
    waiting = run if run.retry_at or run.status is not RunStatus.PENDING else _not_due(run)
    return lambda retry: advance_run(waiting, jobs, retry, len(jobs), NOW).run.status


def _not_due(run: Run) -> Run:
    return replace(run, retry_at=NOW + timedelta(minutes=1))


def _run(status: RunStatus) -> Run:
    return Run(RunId("1"), "fox", TASK, status, since=NOW, submitted_at=NOW)


# --- services ---------------------------------------------------------------------------------

SERVICE = ServiceConfiguration.model_validate(
    {
        "type": "service",
        "commands": ["serve"],
        "port": 80,
        "replicas": "0..1",
        "scaling": {"metric": "rps", "target": 1, "scale_down_delay": 0},
    }
)
_CRASHED = replace(_FAILED, finished_at=NOW)
_BUSY = Load(60, arrivals=1)

#: The newest jobs of a service, its load and whether the time is later, in words.
SERVICE_SITUATIONS: dict[str, tuple[tuple[Job, ...], Load, timedelta]] = {
    "nobody asks, and no replica is left": ((), Load(60), timedelta(0)),
    "a request comes": ((), _BUSY, timedelta(0)),
    "its replicas wait": ((_job(JobStatus.SUBMITTED),), _BUSY, timedelta(0)),
    "a replica has a place": ((_job(JobStatus.PROVISIONING),), _BUSY, timedelta(0)),
    "a replica is prepared": ((_job(JobStatus.PULLING),), _BUSY, timedelta(0)),
    "a replica runs": ((_job(JobStatus.RUNNING),), _BUSY, timedelta(0)),
    "its only replica ended, for whatever reason": ((_CRASHED,), _BUSY, timedelta(0)),
    "the pause after that is over": ((_CRASHED,), _BUSY, timedelta(seconds=1)),
    "a replica reached its max_duration": (
        (_job(JobStatus.TERMINATED, reason=JobReason.MAX_DURATION_EXCEEDED),),
        _BUSY,
        timedelta(0),
    ),
}


def service_arrows() -> Arrows:
    """Return how a service moves: from every status, with every kind of replicas and load."""
    arrows: Arrows = {}
    for status in (s for s in RunStatus if not s.finished and s is not RunStatus.TERMINATING):
        run = replace(_run(status), configuration=SERVICE, service=ServiceState(desired=1))
        for cause, (jobs, load, later) in SERVICE_SITUATIONS.items():
            report = ServiceReport("fox", "1", loads=(load,))
            after = advance_service(run, jobs, report, NOW + later)
            _add(arrows, status, after.run.status, cause)
        for cause, abort in (("stopped", False), ("aborted", True)):
            asked = replace(run, stop_requested_at=NOW, abort=abort)
            after = advance_service(asked, (_job(JobStatus.RUNNING),), None, NOW)
            _add(arrows, status, after.run.status, cause)
            after = advance_service(asked, (), None, NOW)
            _add(arrows, status, after.run.status, f"{cause} without a replica")
    for reason in (RunReason.STOPPED_BY_USER, RunReason.MAX_DURATION_EXCEEDED):
        ending = replace(_run(RunStatus.TERMINATING), configuration=SERVICE, reason=reason)
        after = advance_service(ending, (), None, NOW)
        _add(arrows, RunStatus.TERMINATING, after.run.status, f"{reason}, with its last replica")
    return arrows


# --- instances --------------------------------------------------------------------------------


def instance_arrows() -> Arrows:
    """Return how an instance moves."""
    arrows: Arrows = {}
    ready = Machine(InstanceName("local"), SHAPE, ready=True)
    situations = {
        "its backend knows no such machine": (None, False),
        "it is rented": (replace(ready, ready=False), False),
        "it is ready, and free": (ready, False),
        "it is ready, and a job holds some of it": (ready, True),
    }
    for status in InstanceStatus:
        instance = Instance(InstanceName("local"), "local", OFFER, status, NOW, NOW)
        for cause, (machine, busy) in situations.items():
            after = advance_instance(instance, machine, busy, NOW)
            _add(arrows, status, after.status, cause)
        for cause, (wished, seen) in MACHINE_SITUATIONS.items():
            there = replace(instance, ssh=SshTarget("10.0.0.5"), examination=_USABLE)
            gone = replace(there, delete_requested_at=NOW) if wished else there
            if not seen.released or status is InstanceStatus.TERMINATING:
                _add(arrows, status, advance_machine(gone, seen, NOW).status, cause)
    return arrows


_USABLE = Examination(NOW, (), SHAPE)
_UNUSABLE = Examination(NOW, (Finding(False, "docker", "is not there", fatal=True),), SHAPE)

#: Of a machine reached by SSH: whether it is to be let go, and what is seen of it.
MACHINE_SITUATIONS: dict[str, tuple[bool, MachineSighting]] = {
    "an SSH machine can be used": (False, MachineSighting(examination=_USABLE)),
    "a job holds some of the SSH machine": (False, MachineSighting(busy=True)),
    "an SSH machine cannot be used": (False, MachineSighting(examination=_UNUSABLE)),
    "it is to be let go": (True, MachineSighting()),
    "nothing of ours is left on it": (True, MachineSighting(released=True)),
}


# --- fleets -----------------------------------------------------------------------------------


def fleet_arrows() -> Arrows:
    """Return how a fleet moves."""
    arrows: Arrows = {}
    written = {"type": "fleet", "ssh_config": {"hosts": ["10.0.0.5"]}}
    configuration = FleetConfiguration.model_validate(written)
    for status in FleetStatus:
        fleet = Fleet("lab", configuration, status, NOW, NOW)
        made = advance_fleet(replace(fleet, status=FleetStatus.ACTIVE), (), NOW).instances
        wished = replace(fleet, delete_requested_at=NOW)
        for cause, after in (
            ("its machines have their records", advance_fleet(fleet, (), NOW)),
            ("deleted, and its machines are let go", advance_fleet(wished, made, NOW)),
            ("deleted, and no machine is left", advance_fleet(wished, (), NOW)),
        ):
            if status is not FleetStatus.TERMINATING or "deleted" in cause:
                _add(arrows, status, after.fleet.status, cause)
    return arrows


def _add(arrows: Arrows, before: StrEnum, after: StrEnum, cause: str) -> None:
    if after is not before:
        causes = arrows.setdefault((str(before), str(after)), [])
        if cause not in causes:
            causes.append(cause)


def main() -> int:
    """Write the page."""
    PAGE.write_text(page())
    print(f"{PAGE} was written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
