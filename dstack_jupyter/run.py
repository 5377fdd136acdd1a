"""The `Run` object: one run, as code in later cells handles it.

`%%dstack task -o VAR` puts one into a variable, and it is the cell's value (`_`). It may be made
before its run is: where someone has yet to choose an offer, everything it is asked says so.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from dstack_engine.errors import DstackError, Refused
from dstack_engine.records.events import Stream
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunReason, RunStatus, RunView
from dstack_engine.records.updates import GatewayView
from dstack_jupyter.failures import RunFailed, ServiceNotReady, explain
from dstack_jupyter.gateway import Gateway
from dstack_jupyter.rendering.runs import RunCopy
from dstack_jupyter.rendering.services import ServiceCopy
from dstack_jupyter.rendering.steps import status_word
from dstack_jupyter.replicas import does_not_start, is_service, is_up
from dstack_jupyter.run_files import RunFiles
from dstack_jupyter.session import Session
from dstack_jupyter.waiting import Waiting

if TYPE_CHECKING:
    from openai import OpenAI

#: How much of a log's end is read for an error's last lines, in bytes.
_LAST_BYTES = 8_000
_LAST_LINES = 10


@dataclass(frozen=True)
class Output:
    """What a command printed inside a run, and how it ended."""

    exit_code: int
    stdout: str
    stderr: str


class Run:
    """One run of the engine. Every question asks the engine anew; all raise `DstackError`s."""

    def __init__(self, session: Session, view: RunView | None = None) -> None:
        """Make the object; without *view* its run is yet to be submitted."""
        self._session = session
        self._view = view
        self._refusal = "no offer has been chosen yet in the table of its cell"
        self._shown_by_cell = False

    def bind(self, view: RunView) -> None:
        """Say which run it is, once it was submitted."""
        self._view = view

    def withdraw(self, why: str) -> None:
        """Say why there will be no run."""
        self._refusal = why

    def mark_shown(self) -> None:
        """Show nothing when the cell's value is displayed: the cell has shown the run itself."""
        self._shown_by_cell = True

    @property
    def submitted(self) -> bool:
        """Whether there is a run: someone has chosen, and the engine has taken it."""
        return self._view is not None

    @property
    def name(self) -> str:
        """The run's name."""
        return self._known().name

    @property
    def view(self) -> RunView:
        """The run's record with its jobs, as it is now."""
        self._view = self._session.client().run(self.name)
        return self._view

    @property
    def status(self) -> RunStatus:
        """How the run stands now."""
        return self.view.status

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self._known().finished or self.view.finished

    @property
    def reason(self) -> str | None:
        """Why it ended, as a sentence; None while it goes on."""
        view = self.view
        return explain(view) if view.finished else None

    @property
    def exit_code(self) -> int | None:
        """The exit code of its newest job; None while it goes on, or where it had none."""
        job = self.view.job
        return job.exit_code if job else None

    @property
    def ports(self) -> dict[int, str]:
        """Where its ports are reached on this computer, by the container's port."""
        job = self.view.job
        return {route.container_port: route.url for route in job.routes} if job else {}

    @property
    def cost(self) -> float:
        """What it has cost until now, in USD."""
        return self.view.cost(datetime.now(timezone.utc))

    @property
    def url(self) -> str:
        """A service's address, by its own name: browsers resolve it to this computer."""
        return self._gateway().view().url_of(self._service_name())

    @property
    def path_url(self) -> str:
        """A service's address for programs that do not resolve ``*.localhost``."""
        return self._gateway().view().path_url_of(self._service_name())

    @property
    def report(self) -> ServiceReport | None:
        """A service's replicas and traffic as its gateway sees them; None before it has."""
        return self._session.client().service(self._service_name())

    def openai(self, **options: Any) -> OpenAI:
        """Return a client of the model that the service serves; see `dstack_jupyter.openai`.

        Raises `Refused` where the service names no model.
        """
        model = getattr(self._known().run.configuration, "model", None)
        if model is None:
            raise Refused(
                f"{self.name} serves no model.",
                hint="Say which in its configuration: `model: NAME`.",
            )
        return self._gateway().openai(**options)

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return once the service answers requests: a replica is ready, or the first starts one.

        *timeout* is in seconds. Raises `ServiceNotReady` where its replicas only fail or it has
        ended, `TimeoutError` if it is not ready by then. An interrupt ends the waiting alone.
        """
        self._service_name()
        waiting = self.readiness()
        with self._followed_by(waiting):
            waiting.service_if_known(self.report)
            if not waiting.over.wait(timeout):
                raise TimeoutError(f"{self.name} is not ready within {timeout} s")
        self.check_ready(waiting)

    @staticmethod
    def readiness() -> Waiting:
        """Return a follower that is over once a service is ready, or will not be."""
        return Waiting(lambda view, report: is_up(view, report) or does_not_start(view, report))

    def check_ready(self, waiting: Waiting) -> None:
        """Raise `ServiceNotReady`, with the reason and last lines, unless it is up."""
        self._view = view = waiting.view or self._known()
        if not is_up(view, waiting.report):
            raise ServiceNotReady(view, self._last_lines())

    def wait(self, timeout: float | None = None, *, check: bool = True) -> RunStatus:
        """Return the final status once the run has ended; *timeout* is in seconds.

        Raises `RunFailed` if it failed, unless *check* is false; `TimeoutError` if it has not ended
        by then. An interrupt ends the waiting, not the run.
        """
        self._known()
        waiting = Waiting()
        with self._followed_by(waiting):
            if not waiting.over.wait(timeout):
                raise TimeoutError(f"{self.name} has not ended within {timeout} s")
        self._view = waiting.view or self._view
        if check:
            self.check()
        return self._known().status

    def check(self) -> None:
        """Raise `RunFailed`, with the reason and last lines, if it failed or ran out of time."""
        view = self._known()
        timed_out = view.run.reason is RunReason.MAX_DURATION_EXCEEDED
        if view.status is RunStatus.FAILED or timed_out:
            raise RunFailed(view, self._last_lines())

    def logs(
        self,
        tail_bytes: int | None = None,
        *,
        replica: int | None = None,
        node: int | None = None,
    ) -> str:
        """Return what the run's newest job has printed, or the last *tail_bytes* of it.

        *replica* is the number of a service's replica, the first that lives if left out; *node*
        that of one of several nodes, the first if left out.
        """
        client = self._session.client()
        frames = client.logs(self.name, tail_bytes=tail_bytes, replica=replica, node=node)
        return text_of(frames)

    def stop(self, *, abort: bool = False) -> None:
        """Ask the run to end: politely, or at once. Returns before it has; see `wait`."""
        self._view = self._session.client().stop(self.name, abort=abort)

    def exec(self, command: str | Sequence[str]) -> Output:
        """Run *command* inside the run and return its output; text goes through the shell."""
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        printed = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray(), Stream.CUT: bytearray()}
        code = self._session.client().execute(
            self.name, words, lambda stream, payload: printed[stream].extend(payload)
        )
        stdout, stderr = (
            printed[stream].decode(errors="replace") for stream in (Stream.STDOUT, Stream.STDERR)
        )
        return Output(code, stdout, stderr)

    @property
    def files(self) -> RunFiles:
        """The files of the run's working directory, while it runs and after it ended."""
        return RunFiles(self._session, self.name)

    @property
    def last_view(self) -> RunView:
        """The run as it was last heard of, without asking."""
        return self._known()

    def _known(self) -> RunView:
        if self._view is None:
            raise Refused(f"There is no run: {self._refusal}.")
        return self._view

    @contextmanager
    def _followed_by(self, waiting: Waiting) -> Iterator[None]:
        watcher = self._session.watcher()
        watcher.follow(self.view, waiting, output=False)
        try:
            yield
        finally:
            watcher.forget(waiting)

    def _gateway(self) -> Gateway:
        return Gateway(self._session.client)

    def _service_name(self) -> str:
        view = self._known()
        if not is_service(view):
            raise Refused(f"{view.name} is a {view.run.configuration.type}, not a service.")
        return view.name

    def _last_lines(self) -> list[str]:
        try:
            telling = self.last_view.telling
            node = telling.node if telling is not None and telling.node else None
            text = self.logs(tail_bytes=_LAST_BYTES, node=node)
        except DstackError:
            return []
        return [line.rsplit("\r", 1)[-1] for line in text.rstrip().splitlines()][-_LAST_LINES:]

    def _newest(self) -> RunView | None:
        try:
            return self.view if self._view is not None else None
        except DstackError:
            return self._view  # a repr never fails: the last that was known

    def __repr__(self) -> str:
        view = self._newest()
        return (
            f"<Run: {self._refusal}>" if view is None else f"<Run {view.name}: {status_word(view)}>"
        )

    def _repr_mimebundle_(self, **_kinds: object) -> dict[str, str]:
        """Return the run as it is now, as text and HTML."""
        view = self._newest()
        if view is None:
            return {"text/plain": repr(self)}
        now = datetime.now(timezone.utc)
        if is_service(view):
            return ServiceCopy(view, now, *self._traffic(view)).bundle()
        return RunCopy(view, now).bundle()

    def _traffic(self, view: RunView) -> tuple[ServiceReport | None, GatewayView]:
        if view.finished:
            return None, GatewayView(None)
        try:
            client = self._session.client()
            return client.service(view.name), client.gateway()
        except DstackError:
            return None, GatewayView(None)

    def _ipython_display_(self) -> None:
        """Show nothing where its own cell shows the run; otherwise leave it to the bundle."""
        if not self._shown_by_cell:
            raise NotImplementedError
        self._shown_by_cell = False


def text_of(frames: Any) -> str:
    """Return what *frames* print; each stream's characters may be split between its frames."""
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in Stream}
    return "".join(decoders[frame.stream].decode(frame.payload) for frame in frames)
