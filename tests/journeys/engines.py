"""Real engine processes for journeys: started fast, killed, restarted, asked until it is so.

An engine is forked from a process that has imported everything already, so it answers in a fifth
of a second; what runs in it is `dstack_engine.serving.serve`, in a process of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dstack_engine import rehearsal
from dstack_engine.address import find_engine
from dstack_engine.client import Client
from dstack_engine.errors import EngineDown, EngineError, NotFound
from dstack_engine.home import Home
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunView
from dstack_engine.spec.configurations import Runnable
from dstack_engine.spec.parsing import parse_configuration
from tests.journeys import hurried

PROCESS = OfferId("local/process")
DOCKER = OfferId("local/docker")

#: Seconds; far more than anything takes, for a machine that others keep busy.
PATIENCE = 60.0

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["dstack_engine.rehearsal"])


def prepare_forks() -> None:
    """Start the process that engines are forked from, before any test's home is known to it."""
    forkserver.ensure_running()


@dataclass
class EngineProcess:
    """The engine of one home, which a test may start, kill and start again."""

    home: Home
    #: What `config.yml` says, a line each.
    settings: list[str] = field(default_factory=list)
    #: Seconds that silent machines are waited for, by jobs that are retried and by others.
    patience: tuple[float, float] | None = None
    process: BaseProcess | None = None
    _clients: list[Client] = field(default_factory=list)

    def start(
        self, *, kill_at: int = 0, steps: Path | None = None, clock: Path | None = None
    ) -> EngineProcess:
        """Start the engine and return once it answers, or has died at its step."""
        self.home.make()
        if self.settings:
            self.home.config.write_text("\n".join(self.settings) + "\n")
        options: dict[str, Any] = {"kill_at": kill_at, "steps": steps, "clock": clock}
        target: Callable[..., int] = rehearsal.rehearse
        if self.patience is not None:
            target, options = hurried.rehearse, {**options, "patience": self.patience}
        self.process = _FORKS.Process(target=target, args=(self.home,), kwargs=options, daemon=True)
        self.process.start()
        until(lambda: find_engine(self.home) or self.ended, "the engine to answer")
        return self

    @property
    def pid(self) -> int:
        """The engine's process."""
        assert self.process is not None
        assert self.process.pid is not None
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Tell whether the engine's process is over."""
        return self.process is None or not self.process.is_alive()

    @property
    def client(self) -> Client:
        """A client of this engine and of those that follow it in this home."""
        if not self._clients:
            self._clients.append(Client(self.home))
        return self._clients[0]

    def kill(self) -> None:
        """End the engine as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.wait()

    def stop(self) -> None:
        """Ask the engine to end, as `engine stop` does."""
        self.client.stop_engine()
        self.wait()

    def wait(self) -> None:
        """Return once the process is over."""
        assert self.process is not None
        self.process.join(PATIENCE)
        assert self.ended, "the engine does not end"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the engine's process."""
        os.kill(self.pid, number)

    def close(self) -> None:
        """End the engine and its clients, however they are."""
        for client in self._clients:
            client.close()
        self.kill()

    def end_runs(self) -> None:
        """End whatever a test leaves running, unless the engine is gone."""
        if not self.ended:
            for view in self.client.runs():
                self.client.stop(view.name, abort=True)
                self.until_ended(view.name)

    # --- runs ---------------------------------------------------------------------------------

    def submit(
        self,
        text: str,
        offer: OfferId | None = PROCESS,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> RunView:
        """Start a run of the task in *text* (what stands under `type: task`)."""
        return self.client.submit(
            task(text), offers=() if offer is None else [offer], environment=environment
        )

    def until(
        self, name: str, condition: Callable[[RunView], object], what: str = "the run"
    ) -> RunView:
        """Return the run once *condition* holds; engines may come and go meanwhile."""
        seen: list[RunView] = []

        def holds() -> bool:
            with contextlib.suppress(EngineDown, EngineError):
                seen[:] = [self.client.run(name)]
            return bool(seen and condition(seen[0]))

        until(holds, what, lambda: f"{seen}; the engine's log:\n{self.log_tail()}")
        return seen[0]

    def until_ended(self, name: str) -> RunView:
        """Return the run once it has ended."""
        return self.until(name, lambda view: view.finished, f"run {name} to end")

    def until_prints(self, name: str, words: bytes) -> None:
        """Return once the run's newest job has printed *words*."""

        def printed() -> bool:
            with contextlib.suppress(EngineDown, EngineError, NotFound):
                return words in self.output(name)
            return False

        until(printed, f"{words!r} of run {name}", self.log_tail)

    def output(self, name: str) -> bytes:
        """Return everything that the run's newest job has printed so far, both streams."""
        return b"".join(frame.payload for frame in self.client.logs(name))

    def log_tail(self) -> str:
        """Return the end of the engine's own log."""
        if not self.home.engine_log.exists():
            return "(none)"
        return "\n".join(self.home.engine_log.read_text(errors="replace").splitlines()[-60:])

    def log(self) -> str:
        """Return the engine's own log."""
        return self.home.engine_log.read_text(errors="replace")


def task(text: str) -> Runnable:
    """Return the task that *text* describes below `type: task`."""
    return parse_configuration(f"type: task\n{text}")  # type: ignore[return-value]  # a task runs


def until(
    condition: Callable[[], object],
    what: str,
    tell: Callable[[], object] = lambda: "",
    patience: float = PATIENCE,
) -> None:
    """Return once *condition* holds; fail after *patience* seconds with what *tell* returns."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s for {what}. {tell()}")
        time.sleep(0.02)


def processes_of(home: Home) -> dict[int, str]:
    """Return the living processes whose environment, arguments or folder name *home*."""
    root = os.fsencode(home.root)
    found = {}
    for pid in _pids():
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            named = root in (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            if (named or root in bytes((folder / "cwd").readlink())) and _lives(folder):
                found[pid] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def jobs_processes(home: Home, besides: Collection[int] = ()) -> dict[int, str]:
    """Return the processes of the jobs of *home*: not the engine's, not ours, not *besides*."""
    ours = {os.getpid(), *besides}
    engine = find_engine(home)
    if engine is not None:
        ours.add(engine.pid)
    return {pid: words for pid, words in processes_of(home).items() if pid not in ours}


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _lives(folder: Path) -> bool:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
