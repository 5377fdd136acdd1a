"""The process host: jobs as plain processes of this computer, where there is no Docker Engine.

A job is a folder (`hosts.job_folder`) and a supervisor (`hosts.supervisor`): a detached process
that runs the commands, keeps output and exit code, and enforces the limits whether or not an engine
lives. The host itself remembers nothing that matters; a new one finds every job again by its
folder. It is no jail: a job runs as the engine's user, with that user's home and files.
"""

from __future__ import annotations

import errno
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import dstack_engine
from dstack_engine.errors import ContainerFailed, DiskFull, NotFound, PortTaken
from dstack_engine.home import Home
from dstack_engine.hosts import descendants
from dstack_engine.hosts.archives import read_tar
from dstack_engine.hosts.base import ContainerSpec, ExecResult, Files, ProgressSink
from dstack_engine.hosts.environments import base_environment, job_environment
from dstack_engine.hosts.executions import run_command
from dstack_engine.hosts.interpreters import OWN_BASE, Interpreters
from dstack_engine.hosts.job_folder import JobFolder, number, write_private
from dstack_engine.hosts.job_removal import remove_folder
from dstack_engine.hosts.logs import DEFAULT_CAP
from dstack_engine.hosts.process_examination import examine
from dstack_engine.hosts.process_sightings import exited, killed_facts, time_of
from dstack_engine.hosts.process_usage import UsageMeter
from dstack_engine.records.events import Stream
from dstack_engine.records.findings import Finding
from dstack_engine.records.offers import HostKind
from dstack_engine.records.sightings import Container, Sighting, Usage

_ENGINE_FOLDER = str(Path(dstack_engine.__file__).resolve().parents[1])
_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from dstack_engine.hosts.{module} import {verb}; {verb}(sys.argv[2])"
)
_START_SECONDS = 30.0
#: How much longer than the grace a supervisor may take before it is killed itself.
_STOP_SLACK_SECONDS = 15.0
_ERROR_TAIL_BYTES = 2000


class ProcessHost:
    """Runs jobs under *home*; *log_cap* bounds each job's log, in bytes."""

    kind = HostKind.PROCESS

    def __init__(
        self,
        home: Home,
        *,
        log_cap: int = DEFAULT_CAP,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._home = home
        self._log_cap = log_cap
        self._environment = base_environment(os.environ if environ is None else environ)
        self._interpreters = Interpreters(home.cache, self._environment)
        self._meter = UsageMeter()
        self._settling = threading.Lock()
        self._starting: dict[str, threading.Lock] = {}

    def prepare(self, spec: ContainerSpec, progress: ProgressSink) -> None:
        """Find or fetch the interpreter. Raises `PythonUnavailable`, `DiskFull`."""
        with _disk_full_told():
            if spec.python is not None:
                self._interpreters.obtain(spec.python, progress)
                self._interpreters.pip()

    def start(self, spec: ContainerSpec, files: Files | None, log: Path) -> None:
        """Make the job's folder and its supervisor; see `Host.start`."""
        folder = self._folder(spec.name)
        with self._starting.setdefault(spec.name, threading.Lock()):
            if folder.read("exit") is not None or folder.read("state") is not None:
                return
            with _disk_full_told():
                self._lay_out(folder, spec, files, log)
                reply = self._launch(folder)
            if reply == "busy":
                reply = self._join(folder)
        _raise_refusal(reply, folder)

    def attend(self, name: str, log: Path) -> None:
        """Block until the job has ended; its supervisor has then written all output."""
        folder = self._folder(name)
        while (pid := folder.supervisor()) is not None:
            folder.wait_for_end(pid)
        self._settle(folder)

    def look(self, name: str) -> Sighting:
        """Return what there is of the job; one whose supervisor was killed is ended here."""
        folder = self._folder(name)
        if not folder.exists():
            return Sighting(Container.ABSENT)
        ended = folder.read("exit")
        if ended is None and folder.read("state") is None:
            return Sighting(Container.CREATED)
        if ended is None and folder.supervisor() is not None:
            return Sighting(Container.UP, started_at=time_of(folder.read("state"), "started_ns"))
        self._settle(folder)
        return exited(folder.read("exit") or {})

    def stop(self, name: str, grace: timedelta) -> None:
        """Ask the supervisor to end the job; see `Host.stop`."""
        folder = self._folder(name)
        pid = folder.supervisor()
        if pid is not None:
            seconds = max(grace.total_seconds(), 0.0)
            with suppress(OSError):  # without the wish on disk the supervisor waits 10 s
                folder.write("stop", {"grace": seconds})
            descendants.send(pid, signal.SIGUSR1)
            descendants.send(pid, signal.SIGCONT)
            if not folder.wait_for_end(pid, seconds + _STOP_SLACK_SECONDS):
                descendants.send(pid, signal.SIGKILL)
                folder.wait_for_end(pid, _STOP_SLACK_SECONDS)
        self._settle(folder)

    def remove(self, name: str) -> None:
        """End the job at once and delete its folder."""
        folder = self._folder(name)
        if not folder.exists():
            return
        folder.discard("instructions")  # a supervisor that has not begun yet never will
        self.stop(name, timedelta(0))
        lock = folder.wait_for_lock()
        try:
            self._kill_marked(folder)
            remove_folder(Path(folder.path))
        finally:
            if lock is not None:
                os.close(lock)
        self._meter.forget(name)
        self._starting.pop(name, None)

    def list_containers(self, labels: Mapping[str, str]) -> Sequence[str]:
        """Return the jobs that carry *labels*."""
        if not self._home.jobs.is_dir():
            return []
        names = sorted(p.name for p in self._home.jobs.iterdir() if not p.name.startswith("."))
        return [name for name in names if labels.items() <= self._labels(name).items()]

    def usage(self, name: str) -> Usage | None:
        """Return what the job's processes use; the first time, since they began."""
        folder = self._folder(name)
        pid = folder.supervisor()
        state = folder.read("state")
        instructions = folder.read("instructions")
        if pid is None or not state or not instructions:
            return None
        gpus = instructions["gpus"]
        assert isinstance(gpus, list)
        return self._meter.measure(name, pid, number(state, "started_ns"), gpus)

    def execute(
        self, name: str, command: Sequence[str], sink: Callable[[Stream, bytes], None]
    ) -> ExecResult:
        """Run *command* beside the job's; it is ended with the job."""
        instructions = self._running(name)
        environment = instructions["environment"]
        assert isinstance(environment, dict)
        cwd = str(instructions["cwd"])
        return ExecResult(run_command(command, environment, cwd, sink))

    def read_files(self, name: str, path: str) -> Iterator[bytes]:
        """Yield the job's file or folder *path* as a tar; see `Host.read_files`."""
        folder = self._folder(name)
        if not folder.exists():
            raise NotFound(f"there is no job {name} on the process host")
        return read_tar(Path(folder.workflow), path)

    def doctor(self) -> Iterator[Finding]:
        """Yield what is well and what is missing for plain processes, in some seconds at most."""
        yield from examine(self._environment.get("PATH", os.defpath), self._interpreters)

    def shell_command(self, name: str) -> Sequence[str]:
        """Return the argv of a shell in the job's environment. Raises `NotFound`."""
        self._running(name)
        return _bare("spawning", "enter", self._folder(name))

    def _folder(self, name: str) -> JobFolder:
        if not name or "/" in name or "\0" in name or name.startswith("."):
            raise ContainerFailed(f"{name!r} cannot be the name of a job")
        return JobFolder(self._home.jobs / name)

    def _labels(self, name: str) -> dict[str, str]:
        try:
            labels = json.loads((self._home.jobs / name / "labels").read_text())
        except (OSError, ValueError):
            return {}
        return labels if isinstance(labels, dict) else {}

    def _running(self, name: str) -> dict[str, object]:
        folder = self._folder(name)
        instructions = folder.read("instructions")
        if folder.supervisor() is None or not instructions:
            raise NotFound(f"the job {name} does not run")
        return instructions

    def _lay_out(
        self, folder: JobFolder, spec: ContainerSpec, files: Files | None, log: Path
    ) -> None:
        """Put everything that the job needs into its folder; repeatable."""
        if spec.script is None:
            raise ContainerFailed(
                "the process host has no image whose command it could run",
                hint="Write `commands`, or choose an offer with Docker.",
            )
        workflow = Path(folder.workflow)
        workflow.mkdir(mode=0o700, parents=True, exist_ok=True)
        cwd = workflow / spec.working_dir
        if not cwd.resolve().is_relative_to(workflow.resolve()):
            raise ContainerFailed(f"working_dir {spec.working_dir} is outside of the project")
        write_private(f"{folder.path}/labels", json.dumps(dict(spec.labels)).encode())
        if files is not None:
            files.copy_to(workflow)
        cwd.mkdir(parents=True, exist_ok=True)
        programs = self._make_python(folder, spec.python)
        write_private(folder.script, spec.script.encode(errors="surrogateescape"))
        environment = job_environment(self._environment, spec, folder, programs)
        folder.write("instructions", self._instructions(folder, spec, environment, cwd, log))

    def _make_python(self, folder: JobFolder, version: str | None) -> tuple[str, ...]:
        """Make the job's own Python; return the folders that its PATH begins with."""
        programs = f"{folder.python}/bin"
        if version is not None:
            self._interpreters.make_clean(Path(folder.python), version)
            return (programs,)
        self._interpreters.make_own(Path(folder.python))
        return (programs, str(Path(sys.executable).parent))

    def _instructions(
        self,
        folder: JobFolder,
        spec: ContainerSpec,
        environment: dict[str, str],
        cwd: Path,
        log: Path,
    ) -> dict[str, object]:
        limits, duration = spec.limits, spec.max_duration
        shell = shutil.which("bash", path=environment["PATH"]) or "/bin/sh"
        return {
            "argv": [shell, folder.script],
            "environment": environment,
            "cwd": str(cwd),
            "log": str(log),
            "log_cap": self._log_cap,
            "wake": str(self._home.root / "wake.sock"),
            "routes": [[r.address, r.local_port, r.container_port] for r in spec.routes],
            "cpus": _share_of_cpus(limits.cpus, spec.name),
            "memory_bytes": int((limits.memory_gb or 0) * (1 << 30)),
            "gpus": list(limits.gpus),
            "max_seconds": None if duration is None else duration.total_seconds(),
        }

    def _launch(self, folder: JobFolder) -> str:
        """Start a supervisor; return the line that it says when the job runs, or why not."""
        with open(folder.supervisor_errors, "ab", opener=_private) as errors:
            process = subprocess.Popen(
                _bare("supervisor", "main", folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env={"LC_ALL": "C.UTF-8", **_library_path(self._environment)},
                cwd="/",
            )
        assert process.stdout is not None
        with process.stdout as output:
            process.wait(_START_SECONDS)  # it has only forked: the supervisor is its child
            poll = select.poll()
            poll.register(output.fileno(), select.POLLIN)
            if not poll.poll(_START_SECONDS * 1000):
                return "failed its supervisor did not start in time"
            return os.read(output.fileno(), 4096).decode().strip()

    def _join(self, folder: JobFolder) -> str:
        """Wait for the supervisor that another start has just begun."""
        pause = threading.Event()
        for _ in range(int(_START_SECONDS * 100)):
            if folder.read("state") is not None or folder.read("exit") is not None:
                return "started"
            pause.wait(0.01)
        return "failed another supervisor holds the job and does not begin"

    def _settle(self, folder: JobFolder) -> None:
        """End what a killed supervisor has left behind, and write down that it was killed."""
        with self._settling:
            state = folder.read("state")
            if state is None or folder.supervisor() is not None or folder.read("exit") is not None:
                return
            self._kill_marked(folder)
            facts = killed_facts(state, wished=folder.read("stop") is not None)
            with _disk_full_told():
                folder.write_exit(facts)
            folder.discard("instructions")

    def _kill_marked(self, folder: JobFolder) -> None:
        descendants.kill_all(lambda: descendants.marked(folder.path))


def _bare(module: str, verb: str, folder: JobFolder) -> list[str]:
    """Return the argv of a bare interpreter that calls one of our functions for a job."""
    code = _BOOTSTRAP.format(module=module, verb=verb)
    return [OWN_BASE, "-I", "-S", "-c", code, _ENGINE_FOLDER, folder.path]


def _raise_refusal(reply: str, folder: JobFolder) -> None:
    """Raise the error that a supervisor's *reply* means; nothing when the job was started."""
    word, _, rest = reply.partition(" ")
    if word in ("started", "ended"):
        return
    if word == "port-taken":
        raise PortTaken(
            f"port {rest} is in use on this computer",
            hint="Stop what listens there, or choose another port.",
        )
    if word == "gone":
        raise ContainerFailed(f"the job {folder.name} was removed while it was started")
    said = rest or _tail(folder.supervisor_errors)
    if "No space left" in said or "quota exceeded" in said:
        raise DiskFull(f"the disk of {folder.path} is full")
    raise ContainerFailed(f"the job {folder.name} could not be started: {said or 'no reason told'}")


def _share_of_cpus(wanted: float | None, name: str) -> list[int]:
    """Return the CPUs that a job may use; jobs begin at different ones. Empty is all."""
    there = sorted(os.sched_getaffinity(0))
    if wanted is None or wanted >= len(there):
        return []
    first = zlib.crc32(name.encode())
    return [there[(first + n) % len(there)] for n in range(max(math.ceil(wanted), 1))]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _library_path(environment: Mapping[str, str]) -> dict[str, str]:
    path = environment.get("LD_LIBRARY_PATH")
    return {} if path is None else {"LD_LIBRARY_PATH": path}


def _tail(path: str) -> str:
    try:
        return Path(path).read_bytes()[-_ERROR_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""


@contextmanager
def _disk_full_told() -> Iterator[None]:
    """Turn the system's errors into the host's own."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"the disk is full: {error}") from error
        raise ContainerFailed(f"the job's folder could not be made: {error}") from error
