"""What a host is told about a job: its script and environment, made into a `ContainerSpec`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from dstack_engine.decisions.ownership import nodes_of
from dstack_engine.decisions.scripts import (
    WORKFLOW,
    Images,
    Node,
    entrypoint_of,
    gpu_count,
    image_for,
    job_script,
    registry_login_of,
    script_of,
)
from dstack_engine.errors import HostUnreachable
from dstack_engine.home import Home
from dstack_engine.hosts.base import ContainerSpec, Limits, RegistryAuth
from dstack_engine.records.instances import Instance
from dstack_engine.records.jobs import Job, Reservation
from dstack_engine.records.offers import HostKind, Offer
from dstack_engine.records.runs import Run
from dstack_engine.settings import Settings
from dstack_engine.spec.configurations import Runnable
from dstack_engine.spec.profiles import effective_max_duration, effective_stop_duration
from dstack_engine.store.store import Kept

#: Every container of ours carries it; its value is the home's id, so that engines of several
#: homes on one Docker Engine leave each other's containers alone.
HOME_LABEL = "dstack-jupyter.home"

#: Between the polite signal and the hard one where `stop_duration` is not written: Docker's own
#: default. dstack's 300 s is for machines that save a checkpoint over a network.
STOP_GRACE = timedelta(seconds=10)

#: `stop_duration: off` means as long as it needs.
PATIENT_GRACE = timedelta(days=1)


def container_spec(run: Run, job: Job, home: Home, *, nodes: Sequence[Node] = ()) -> ContainerSpec:
    """Return what the host of *job*, which has a place, is told; *nodes* as in `job_script`."""
    assert job.offer is not None, f"job {job.id} has no place"
    script = job_script(run, job, repo_dir=repo_dir(job, home), nodes=nodes)
    return ContainerSpec(
        name=job.container,
        labels={**home_labels(home), "dstack-jupyter.run": run.name, "dstack-jupyter.job": job.id},
        script=script.script,
        image=script.image,
        python=script.python,
        entrypoint=script.entrypoint,
        registry_auth=_registry_auth(run),
        environment=script.environment,
        working_dir=script.working_dir,
        home_dir=script.home_dir,
        user=script.user,
        privileged=script.privileged,
        limits=_limits(job.reservation or Reservation()),
        routes=job.routes,
        max_duration=max_duration(run),
        stop_grace=stop_grace(run),
        host_network=nodes_of(run.configuration) > 1,
    )


def nodes_in(
    jobs: Sequence[Job], find_instance: Callable[[str], Kept[Instance] | None]
) -> tuple[Node, ...]:
    """Return the nodes that *jobs*, all of one attempt and placed, are to each other."""
    return tuple(
        Node(_address(job, find_instance(job.instance or "")), gpu_count(job)) for job in jobs
    )


def _address(job: Job, kept: Kept[Instance] | None) -> str:
    """Return how the other nodes reach the job's machine; raise `HostUnreachable` where it left."""
    if kept is None:
        raise HostUnreachable(f"the machine {job.instance} is not known any more")
    machine = kept.record
    found = machine.examination.internal_ip if machine.examination is not None else None
    named = machine.ssh.hostname if machine.ssh is not None else "127.0.0.1"
    return machine.internal_ip or found or named


def home_labels(home: Home) -> dict[str, str]:
    """Return the labels that all containers of this home carry."""
    return {HOME_LABEL: home.id}


def repo_dir(job: Job, home: Home) -> str:
    """Return where the project's files are for the job itself."""
    if job.offer is not None and job.offer.host is HostKind.PROCESS:
        return str(home.jobs / job.container / "workflow")
    return WORKFLOW


def max_duration(run: Run) -> timedelta | None:
    """Return how long the run's jobs may run; None where there is no limit."""
    seconds = effective_max_duration(run.configuration)
    return None if seconds is None else timedelta(seconds=seconds)


def keeps_duration(run: Run, job: Job) -> bool:
    """Tell whether the job's host ends it after its max_duration itself.

    A process's supervisor does, and so does a container in which our script runs; an image's own
    command or entrypoint cannot.
    """
    if job.offer is not None and job.offer.host is HostKind.PROCESS:
        return True
    return script_of(run.configuration) is not None and entrypoint_of(run.configuration) is None


def stop_grace(run: Run) -> timedelta:
    """Return how long the run's jobs may take to end when they are told to."""
    if run.configuration.stop_duration is None:
        return STOP_GRACE
    seconds = effective_stop_duration(run.configuration)
    return PATIENT_GRACE if seconds is None else timedelta(seconds=seconds)


def image_of(configuration: Runnable, offer: Offer, settings: Settings) -> str | None:
    """Return the image that *configuration* would run in on *offer*; None for a plain process."""
    images = Images(plain=settings.default_image, gpu=settings.gpu_image, nvcc=settings.nvcc_image)
    return image_for(configuration, offer, images, settings.own_python)


def _registry_auth(run: Run) -> RegistryAuth | None:
    login = registry_login_of(run.configuration, run.environment)
    return None if login is None else RegistryAuth(*login)


def _limits(reservation: Reservation) -> Limits:
    return Limits(
        cpus=reservation.cpu_limit,
        memory_gb=reservation.memory_limit_gb,
        shm_gb=reservation.shm_gb,
        gpus=reservation.gpus,
    )
