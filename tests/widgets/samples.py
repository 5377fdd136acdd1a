"""Records to show, with everything that a test does not care for filled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from dstack_engine.records.events import Frame, Stream
from dstack_engine.records.findings import Finding
from dstack_engine.records.fleets import Fleet, FleetStatus, FleetView
from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus
from dstack_engine.records.jobs import Job, JobId, JobReason, JobStatus, Reservation
from dstack_engine.records.machines import Examination, SshTarget
from dstack_engine.records.offers import (
    Gpu,
    HostKind,
    MachineShape,
    Offer,
    OfferId,
    Plan,
    Refusal,
    RefusalCount,
)
from dstack_engine.records.publication import ReplicaReport, ReplicaState, ServiceReport
from dstack_engine.records.routes import Route
from dstack_engine.records.runs import Run, RunId, RunReason, RunStatus, RunView
from dstack_engine.records.services import ServiceState
from dstack_engine.spec.configurations import RunConfiguration
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.parsing import parse_configuration

NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
H100 = Gpu("H100", 80)
LOCAL = Offer(
    OfferId("local/docker"),
    "local",
    "local",
    "local",
    HostKind.DOCKER,
    MachineShape(4, 16, 200),
    0.0,
    remarks=("offers 200GB of disk",),
)


def an_offer(number: int, *, price: float = 1.0, gpus: int = 1, spot: bool = False) -> Offer:
    """An offer of a cloud's catalog."""
    shape = MachineShape(8 * gpus, 64 * gpus, None, (H100,) * gpus)
    region = f"eu-west-{number}"
    kind = f"p5.{gpus}xlarge"
    identity = OfferId(f"aws/{region}/{kind}")
    return Offer(identity, "aws", region, kind, HostKind.DOCKER, shape, price, spot)


def a_plan(*offers: Offer, refused: int = 1) -> Plan:
    """A plan with these offers, and some refused."""
    reason = "asks 24GB of GPU memory; this computer has no GPU"
    return Plan(
        offers,
        tuple(Refusal(LOCAL, (reason,)) for _ in range(min(refused, 50))),
        len(offers),
        refused,
        (RefusalCount(reason, refused),) if refused else (),
    )


def a_run(
    status: RunStatus = RunStatus.RUNNING, job: Job | None = None, *, price: float = 3.6
) -> RunView:
    """A run of one job, a minute old."""
    configuration = parse_configuration("type: task\ncommands: [ls]\n")
    assert isinstance(configuration, RunConfiguration)
    at = NOON + timedelta(minutes=1)
    run = Run(RunId("r1"), "wet-fox-1", configuration, status, at, NOON)
    if run.finished:
        run = replace(run, finished_at=at)
    return RunView(run, (job or a_job(_JOB_STATUS[status], price=price),))


_JOB_STATUS = {
    RunStatus.PENDING: JobStatus.FAILED,
    RunStatus.SUBMITTED: JobStatus.SUBMITTED,
    RunStatus.PROVISIONING: JobStatus.PULLING,
    RunStatus.RUNNING: JobStatus.RUNNING,
    RunStatus.TERMINATING: JobStatus.TERMINATING,
    RunStatus.TERMINATED: JobStatus.TERMINATED,
    RunStatus.FAILED: JobStatus.FAILED,
    RunStatus.DONE: JobStatus.DONE,
}
_REASONS = {
    JobStatus.FAILED: JobReason.CONTAINER_EXITED_WITH_ERROR,
    JobStatus.TERMINATED: JobReason.TERMINATED_BY_USER,
    JobStatus.TERMINATING: JobReason.TERMINATED_BY_USER,
    JobStatus.DONE: JobReason.DONE_BY_RUNNER,
}


def a_job(status: JobStatus = JobStatus.RUNNING, *, price: float = 3.6) -> Job:
    """The first attempt of a run's only job."""
    job = Job(JobId("wet-fox-1-0-0/1"), "r1", "wet-fox-1", 0, 0, 1, status, NOON, NOON)
    if status is JobStatus.SUBMITTED:
        return replace(job, waiting="waits for 4 CPUs: dry-cat-2 holds them")
    job = replace(job, offer=an_offer(1, price=price), placed_at=NOON + timedelta(seconds=1))
    if status in (JobStatus.PROVISIONING, JobStatus.PULLING):
        return replace(job, since=NOON + timedelta(seconds=2))
    job = replace(
        job,
        started_at=NOON + timedelta(seconds=30),
        routes=(Route(8000, 80),),
        reason=_REASONS.get(status),
        reservation=Reservation(4, 16, cpu_limit=4, memory_limit_gb=16),
    )
    if status is JobStatus.FAILED:
        job = replace(job, detail="exit code 3", exit_code=3)
    return replace(job, finished_at=NOON + timedelta(minutes=1)) if job.finished else job


SERVICE = "type: service\nname: chat\ncommands: [serve]\nport: 8000\nreplicas: 3\n"
MODEL = SERVICE + "model: tiny\n"


def a_service(
    *jobs: Job,
    text: str = SERVICE,
    status: RunStatus = RunStatus.RUNNING,
    state: ServiceState | None = None,
) -> RunView:
    """A service, a minute old, that is to have three replicas; without *jobs*, all three run."""
    configuration = parse_configuration(text)
    assert isinstance(configuration, RunConfiguration)
    at = NOON + timedelta(minutes=1)
    service = state or ServiceState(desired=3)
    run = Run(RunId("s1"), "chat", configuration, status, at, NOON, service=service)
    if run.finished:
        run = replace(run, finished_at=at, reason=RunReason.STOPPED_BY_USER)
    return RunView(run, jobs or tuple(a_replica(number) for number in range(3)))


def a_replica(
    number: int, status: JobStatus = JobStatus.RUNNING, *, attempt: int = 1, deployment: int = 1
) -> Job:
    """One attempt of one replica of `a_service`."""
    made = a_job(status, price=0)
    return replace(
        made,
        id=JobId(f"chat-0-{number}/{attempt}"),
        run_id="s1",
        run_name="chat",
        replica=number,
        attempt=attempt,
        deployment=deployment,
    )


def a_report(*states: ReplicaState, requests: int = 1204, errors: int = 2) -> ServiceReport:
    """What the gateway sees of `a_service`: its replicas in *states*, ready if none are given."""
    given = states or (ReplicaState.READY,) * 3
    replicas = tuple(
        ReplicaReport(f"chat-0-{number}/1", state, 1, requests // 3, errors // 2)
        for number, state in enumerate(given)
    )
    return ServiceReport("chat", "s1", replicas, 3, 1, (), 12.34, 0.014, 0.082, requests, errors)


def frames_of(*pieces: bytes | tuple[Stream, bytes]) -> Sequence[Frame]:
    """Frames with these payloads, one after the other."""
    frames, offset = [], 0
    for piece in pieces:
        stream, payload = piece if isinstance(piece, tuple) else (Stream.STDOUT, piece)
        frames.append(Frame(offset, offset + len(payload), stream, NOON, payload))
        offset += len(payload)
    return frames


GOOD_CHECKS = (
    Finding(True, "ssh", "answers in 12 ms"),
    Finding(True, "docker", "Docker Engine 27.3 answers"),
)
NO_DOCKER = Finding(
    False, "docker", "ubuntu may not use it", "sudo usermod -aG docker ubuntu", fatal=True
)
OLD_TOOLKIT = Finding(False, "toolkit", "1.14 is old", "sudo apt-get upgrade")


def a_machine(
    number: int = 0,
    status: InstanceStatus = InstanceStatus.IDLE,
    *findings: Finding,
    fleet: str = "lab",
) -> Instance:
    """A machine of a fleet, looked into unless it is pending; usable without bad *findings*."""
    shape = MachineShape(32, 128, 900, (H100, H100))
    found = Examination(NOON, findings or GOOD_CHECKS, None if findings else shape)
    name = InstanceName(f"{fleet}-{number}")
    offer = Offer(
        OfferId(f"ssh/{name}"),
        "ssh",
        fleet,
        f"10.0.0.{number + 5}",
        HostKind.DOCKER,
        shape,
        0.0,
        instance=name,
        fleet=fleet,
    )
    return Instance(
        name,
        "ssh",
        offer,
        status,
        NOON,
        NOON,
        fleet=fleet,
        number=number,
        ssh=SshTarget(offer.instance_type, user="ubuntu"),
        examination=None if status is InstanceStatus.PENDING else found,
    )


def a_fleet(*machines: Instance, hosts: int | None = None) -> FleetView:
    """The fleet `lab`, with a host for each of *machines*, or so many."""
    count = len(machines) if hosts is None else hosts
    names = ", ".join(f"10.0.0.{number + 5}" for number in range(count))
    text = f"type: fleet\nname: lab\nssh_config: {{user: ubuntu, hosts: [{names}]}}\n"
    configuration = parse_configuration(text)
    assert isinstance(configuration, FleetConfiguration)
    return FleetView(Fleet("lab", configuration, FleetStatus.ACTIVE, NOON, NOON), machines)
