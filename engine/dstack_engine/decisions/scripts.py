"""What a job runs: the commands as one script, its environment, its image. Pure.

The job loop makes a host's instructions of it. The script fails like a script: whatever ends with
an error ends the job, with that exit code.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from dstack_engine.errors import Refused
from dstack_engine.records.jobs import Job
from dstack_engine.records.offers import HostKind, Offer
from dstack_engine.records.runs import Run
from dstack_engine.spec.configurations import (
    DevEnvironmentConfiguration,
    RunConfiguration,
    ServiceConfiguration,
)
from dstack_engine.spec.interpolation import interpolate

#: Where the project's files are in a container.
WORKFLOW = "/workflow"

#: Tells a service's program at which port to listen: where several replicas share a computer's
#: ports, each has its own.
PORT_VARIABLE = "DSTACK_SERVICE_PORT"

#: Shells for which the script itself is good: hosts run it by bash, or by sh where there is none.
_PLAIN_SHELLS = frozenset({"bash", "sh", "/bin/bash", "/bin/sh", "/usr/bin/bash", "/usr/bin/sh"})

#: Ends the script when the command before it failed in a way that `set -e` passes over, as the
#: first half of `a && b` does. `return` keeps the exit code, without a process of its own.
_CHECK = "__dstack_check"


@dataclass(frozen=True)
class Images:
    """The images for runs that name none; `{version}` stands for the version of Python."""

    plain: str
    gpu: str
    nvcc: str


@dataclass(frozen=True)
class JobScript:
    """What a job runs, for any host."""

    #: One script for bash or sh; None where the image's own command runs.
    script: str | None
    environment: Mapping[str, str] = field(repr=False)
    #: None on the process host.
    image: str | None = None
    #: The version of Python that was asked for; on Docker the image has it.
    python: str | None = None
    entrypoint: tuple[str, ...] | None = None
    #: Relative to the project's root; never outside of it.
    working_dir: str = "."
    home_dir: str = "/root"
    user: str | None = None
    privileged: bool = False


@dataclass(frozen=True)
class Node:
    """One of several nodes of a run, as the others know it."""

    #: By which the others reach it.
    address: str
    gpus: int = 0


def job_script(
    run: Run, job: Job, *, repo_dir: str = WORKFLOW, nodes: Sequence[Node] = ()
) -> JobScript:
    """Return what *job*, which has a place, runs; *repo_dir* is where its host puts the files.

    *nodes* are all nodes of its attempt, in their order, where there are several.
    """
    wanted = run.configuration
    working_dir = working_dir_of(wanted)
    return JobScript(
        script=script_of(wanted),
        environment={
            **_variables(run, job, repo_dir, working_dir),
            **_node_variables(job, nodes or (Node("127.0.0.1", gpu_count(job)),)),
            **run.environment,
        },
        image=job.image,
        python=wanted.python,
        entrypoint=entrypoint_of(wanted),
        working_dir=working_dir,
        home_dir=wanted.home_dir,
        user=wanted.user,
        privileged=wanted.privileged,
    )


def image_for(
    wanted: RunConfiguration, offer: Offer, images: Images, own_python: str
) -> str | None:
    """Return the image that *wanted* runs in on *offer*; None for a plain process.

    Its own; else the default one: with CUDA where a GPU is asked, with its compiler where `nvcc`
    is. *own_python* is the version where none is written.
    """
    if offer.host is HostKind.PROCESS:
        return None
    if wanted.image is not None:
        return wanted.image
    version = wanted.python or own_python
    return _default_image(wanted, images).replace("{version}", version)


def _default_image(wanted: RunConfiguration, images: Images) -> str:
    if wanted.nvcc:
        return images.nvcc
    asks_gpus = wanted.resources.gpu is not None and wanted.resources.gpu.count.max != 0
    return images.gpu if asks_gpus else images.plain


def script_of(wanted: RunConfiguration) -> str | None:
    """Return the script of `setup`, then `commands`; None where there is neither."""
    commands = [*wanted.setup, *_commands(wanted)]
    if not commands:
        return None
    lines = ["set -e", f"{_CHECK}() {{ return; }}"]
    for command in commands:
        # The empty line ends a command whose last line ends in a backslash.
        lines += [command.rstrip("\n"), "", _CHECK]
    script = "\n".join(lines) + "\n"
    if wanted.shell is None or wanted.shell in _PLAIN_SHELLS:
        return script
    return f"exec {shlex.quote(wanted.shell)} -c {shlex.quote(script)}\n"


def _commands(wanted: RunConfiguration) -> Sequence[str]:
    if isinstance(wanted, DevEnvironmentConfiguration):
        return wanted.init
    commands: Sequence[str] = getattr(wanted, "commands", ())
    return commands


def finds_its_port(wanted: ServiceConfiguration) -> bool:
    """Tell whether the service's program asks at which port to listen, so that any will do."""
    texts = [*wanted.setup, *wanted.commands, wanted.entrypoint or ""]
    texts += [value for value in wanted.env.values() if value is not None]
    return any(PORT_VARIABLE in text for text in texts)


def check_script(wanted: RunConfiguration) -> None:
    """Raise `Refused` for what could never be started, while the author still looks."""
    working_dir_of(wanted)
    entrypoint_of(wanted)


def registry_login_of(
    wanted: RunConfiguration, environment: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return user name and password of the image's registry, `${{ env.X }}` filled in.

    Raises `Refused` where one of them names a variable that the run does not have.
    """
    auth = wanted.registry_auth
    if auth is None:
        return None
    variables = {f"env.{name}": value for name, value in environment.items()}
    login = [interpolate(text, variables) for text in (auth.username, auth.password)]
    missing = sorted({name for part in login for name in part.missing})
    if missing:
        raise Refused(
            f"registry_auth names {', '.join(missing)}, which the run does not have",
            hint="List the variable under `env`; its value is then taken from your environment.",
        )
    return login[0].text, login[1].text


def working_dir_of(wanted: RunConfiguration) -> str:
    """Return `working_dir` relative to the project's root; raise `Refused` where it leads out."""
    given = wanted.working_dir or "."
    path = posixpath.normpath(posixpath.join(WORKFLOW, given))
    if path != WORKFLOW and not path.startswith(f"{WORKFLOW}/"):
        raise Refused(
            f"working_dir {given!r} is outside of the project",
            hint=f"It is relative to the project's root, or under {WORKFLOW}.",
        )
    return posixpath.relpath(path, WORKFLOW)


def entrypoint_of(wanted: RunConfiguration) -> tuple[str, ...] | None:
    """Return the words of `entrypoint`; raise `Refused` for one whose quotes do not match."""
    if not wanted.entrypoint:
        return None
    try:
        return tuple(shlex.split(wanted.entrypoint)) or None
    except ValueError as error:
        raise Refused(
            f"entrypoint {wanted.entrypoint!r} cannot be split into words: {error}"
        ) from error


def _variables(run: Run, job: Job, repo_dir: str, working_dir: str) -> dict[str, str]:
    """Return the variables that every job finds: dstack's names, old ones included.

    The author's own `env` goes before them, so that a `RUN_NAME` of theirs stays theirs.
    """
    service: dict[str, str] = {}
    if isinstance(run.configuration, ServiceConfiguration) and job.routes:
        service[PORT_VARIABLE] = str(job.routes[0].container_port)
    repo_id = _repo_id(run)
    return {
        "DSTACK_RUN_NAME": run.name,
        "DSTACK_RUN_ID": run.id,
        "DSTACK_JOB_ID": job.id,
        "DSTACK_REPO_ID": repo_id,
        "DSTACK_REPO_DIR": repo_dir,
        "DSTACK_WORKING_DIR": posixpath.normpath(posixpath.join(repo_dir, working_dir)),
        **service,
        # Python holds back what it prints into a pipe; a live log is worth more than that saves.
        "PYTHONUNBUFFERED": "1",
        "RUN_NAME": run.name,
        "REPO_ID": repo_id,
    }


def _node_variables(job: Job, nodes: Sequence[Node]) -> dict[str, str]:
    """Return dstack's variables by which nodes find each other, on one machine, too."""
    own = nodes[job.node].gpus if job.node < len(nodes) else gpu_count(job)
    return {
        "DSTACK_MASTER_NODE_IP": nodes[0].address,
        "DSTACK_NODE_RANK": str(job.node),
        "DSTACK_NODES_NUM": str(len(nodes)),
        "DSTACK_NODES_IPS": "\n".join(node.address for node in nodes),
        "DSTACK_GPUS_PER_NODE": str(own),
        "DSTACK_GPUS_NUM": str(sum(node.gpus for node in nodes)),
    }


def gpu_count(job: Job) -> int:
    """Return how many GPUs the job has, or would have of a machine that is rented for it."""
    if job.reservation is not None and job.reservation.gpus:
        return len(job.reservation.gpus)
    if job.offer is None or job.offer.instance is not None or job.offer.backend == "local":
        return 0
    return len(job.offer.shape.gpus)


def _repo_id(run: Run) -> str:
    """Return a name for the project that is the same for every run of the same folder."""
    if run.project is None:
        return "none"
    path = posixpath.normpath(run.project)
    digest = sha256(path.encode(errors="surrogateescape")).hexdigest()
    return f"{posixpath.basename(path) or 'root'}-{digest[:8]}"
