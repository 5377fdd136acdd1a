"""The engine from outside: what magics, widgets, the terminal and Jupyter's server speak through.

One `Client` may be used by many threads. It finds the engine again when that was restarted on
another port; what cannot be answered raises a `DstackError` of the kind that the engine raised.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from dstack_engine import __version__
from dstack_engine.address import find_engine
from dstack_engine.connection import STREAM_TIMEOUT, Leash, error_of, lines
from dstack_engine.errors import EngineError, EngineVersionMismatch, NotFound
from dstack_engine.fleet_client import NAME_LIKE, FleetClient
from dstack_engine.home import Home
from dstack_engine.records.events import Event, Frame, Stream
from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance
from dstack_engine.records.offers import OfferId, Plan
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunView
from dstack_engine.records.updates import (
    PROTOCOL,
    CaughtUp,
    EngineInfo,
    EngineSettings,
    GatewayView,
    LogWritten,
    ModelView,
    Printed,
    PruneReport,
    RecordChanged,
    Update,
)
from dstack_engine.spec.configurations import Runnable
from dstack_engine.streams import decode, frame_from_json
from dstack_engine.tokens import read_token

#: Waits between attempts to reach an engine that is away, in seconds.
RECONNECT_WAITS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

_PLAN: TypeAdapter[Plan] = TypeAdapter(Plan)
_RUN: TypeAdapter[RunView] = TypeAdapter(RunView)
_RUNS: TypeAdapter[list[RunView]] = TypeAdapter(list[RunView])
_EVENTS: TypeAdapter[list[Event]] = TypeAdapter(list[Event])
_INSTANCES: TypeAdapter[list[Instance]] = TypeAdapter(list[Instance])
_INFO: TypeAdapter[EngineInfo] = TypeAdapter(EngineInfo)
_SETTINGS: TypeAdapter[EngineSettings] = TypeAdapter(EngineSettings)
_FINDINGS: TypeAdapter[list[Finding]] = TypeAdapter(list[Finding])
_PRUNED: TypeAdapter[PruneReport] = TypeAdapter(PruneReport)
_GATEWAY: TypeAdapter[GatewayView] = TypeAdapter(GatewayView)
_MODELS: TypeAdapter[list[ModelView]] = TypeAdapter(list[ModelView])
_SERVICE: TypeAdapter[ServiceReport | None] = TypeAdapter(ServiceReport | None)


class Client(FleetClient):
    """A connection to the home's engine."""

    def __init__(self, home: Home) -> None:
        """Make a client; nothing is asked of the engine yet."""
        super().__init__(home)
        self._closed = threading.Event()

    def __enter__(self) -> Client:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """End every stream and connection; may be called twice."""
        self._closed.set()
        self._engine.close()

    # --- the engine --------------------------------------------------------------------------

    def shake_hands(self) -> None:
        """Raise `EngineVersionMismatch` unless client and engine understand each other."""
        address = self._engine.find()
        if address.protocol != PROTOCOL:
            raise EngineVersionMismatch(
                f"The running engine is version {address.version} and this is dstack-jupyter "
                f"{__version__}: they do not understand each other.",
                hint="Restart it, runs go on: %dstack engine stop, then %dstack engine start.",
            )

    def engine(self) -> EngineInfo:
        """Return the engine's version, process and load."""
        return self._engine.ask(_INFO, "GET", "/v1/engine")

    def settings(self) -> EngineSettings:
        """Return the settings that clients must know."""
        return self._engine.ask(_SETTINGS, "GET", "/v1/settings")

    def stop_engine(self, *, stop_runs: bool = False) -> None:
        """End the engine; its runs go on unless *stop_runs*. Returns when it is gone."""
        self._engine.send("POST", "/v1/engine/stop", json={"stop_runs": stop_runs}, timeout=120)
        wait = threading.Event()
        while find_engine(self.home) is not None:
            wait.wait(0.02)

    def doctor(self) -> list[Finding]:
        """Return what is well and what is missing on this computer."""
        return self._engine.ask(_FINDINGS, "GET", "/v1/doctor")

    def prune(self, *, everything: bool = False) -> PruneReport:
        """Take away ended runs' containers, logs and files; with *everything*, all of them."""
        return self._engine.ask(_PRUNED, "POST", "/v1/prune", json={"everything": everything})

    # --- runs --------------------------------------------------------------------------------

    def plan(self, configuration: Runnable) -> Plan:
        """Return the offers for *configuration*, and why others were refused."""
        body = {"configuration": _dump(configuration)}
        return self._engine.ask(_PLAN, "POST", "/v1/plan", json=body)

    def submit(
        self,
        configuration: Runnable,
        *,
        offers: Sequence[OfferId] = (),
        environment: Mapping[str, str] | None = None,
        files: str | None = None,
        project: str | None = None,
    ) -> RunView:
        """Start a run on one of *offers*, tried in this order (none given: any that fits).

        *environment* holds the values of the variables that the configuration only names. Raises
        `NoOffers`, `Conflict` (name or port taken), `Refused`. Sent again after a lost answer, it
        is still one run.
        """
        body = {
            "submission": uuid.uuid4().hex,
            "configuration": _dump(configuration),
            "offers": list(offers),
            "environment": dict(environment or {}),
            "files": files,
            "project": project,
        }
        return self._engine.ask(_RUN, "POST", "/v1/runs", json=body)

    def run(self, name: str) -> RunView:
        """Return the run of that name; raise `NotFound`."""
        return self._engine.ask(_RUN, "GET", _run_path(name))

    def runs(self, *, everything: bool = False) -> list[RunView]:
        """Return the active runs, the newest first; ended ones too with *everything*."""
        return self._engine.ask(_RUNS, "GET", "/v1/runs", params={"everything": everything})

    def stop(self, name: str, *, abort: bool = False) -> RunView:
        """Ask the run to end, gracefully or at once; returns before it has."""
        return self._engine.ask(_RUN, "POST", _run_path(name, "stop"), json={"abort": abort})

    def rerun(self, name: str) -> RunView:
        """Submit a run's configuration anew, with the files and variables that it had.

        An ended run gives way to the new one of its name; beside a living one, a random name is
        taken. Raises `NotFound` (the run, or files of it that are pruned), and as `submit`.
        """
        body = {"submission": uuid.uuid4().hex}
        return self._engine.ask(_RUN, "POST", _run_path(name, "rerun"), json=body)

    def delete(self, name: str) -> None:
        """Forget an ended run with its logs and containers; raise `Conflict` while it is active."""
        self._engine.send("DELETE", _run_path(name))

    def events(self, *, after: int = 0, run: str | None = None, limit: int = 200) -> list[Event]:
        """Return what happened, in order, later than event number *after*."""
        params = {"after": after, "limit": limit, **({"run": run} if run else {})}
        return self._engine.ask(_EVENTS, "GET", "/v1/history", params=params)

    def instances(self) -> list[Instance]:
        """Return the machines that are not gone."""
        return self._engine.ask(_INSTANCES, "GET", "/v1/instances")

    # --- services and models -----------------------------------------------------------------

    def gateway(self) -> GatewayView:
        """Return where services and models are reached; its port is None while none runs."""
        return self._engine.ask(_GATEWAY, "GET", "/v1/gateway")

    def models(self) -> list[ModelView]:
        """Return the models that are served, by name, with what was asked of each."""
        return self._engine.ask(_MODELS, "GET", "/v1/models")

    def service(self, name: str) -> ServiceReport | None:
        """Return the traffic of the service of that name as its gateway saw it last.

        None while no gateway has told of it. Raises `NotFound`, `Conflict` (it is a task).
        """
        return self._engine.ask(_SERVICE, "GET", _run_path(name, "service"))

    def token(self) -> str:
        """Return the user's token for services and models; read from the home, never sent.

        Raises `NotFound` where no engine has made one yet.
        """
        return read_token(self.home)

    # --- output, files, commands -------------------------------------------------------------

    def logs(
        self,
        name: str,
        *,
        offset: int = 0,
        follow: bool = False,
        tail_bytes: int | None = None,
        replica: int | None = None,
        node: int | None = None,
    ) -> Iterator[Frame]:
        """Yield the output of the run's newest job; with *follow* until the run has ended.

        *tail_bytes* begins so far before the end instead of at *offset*; *replica* is the number
        of a service's replica, the first that lives if left out; *node* that of a task's node.
        """
        for printed in self.output(
            name, offset=offset, follow=follow, tail_bytes=tail_bytes, replica=replica, node=node
        ):
            if printed is not None:
                yield printed.frame

    def output(
        self,
        name: str,
        *,
        offset: int = 0,
        follow: bool = False,
        tail_bytes: int | None = None,
        replica: int | None = None,
        node: int | None = None,
        leash: Leash | None = None,
    ) -> Iterator[Printed | None]:
        """Yield what `logs` yields with the job that printed it; None when it is silent for long.

        Raises `EngineError` when *leash* is cut meanwhile.
        """
        params: dict[str, Any] = {"offset": offset, "follow": follow}
        if replica is not None:
            params["replica"] = replica
        if node is not None:
            params["node"] = node
        if tail_bytes is not None:
            params["tail"] = tail_bytes
        path = _run_path(name, "logs")
        with self._engine.stream("GET", path, leash=leash, params=params) as answer:
            for line in lines(answer):
                if not line:  # the engine still is there
                    yield None
                    continue
                body = json.loads(line)
                yield Printed(body["job"], frame_from_json(body))

    def execute(
        self, name: str, command: Sequence[str], sink: Callable[[Stream, bytes], None]
    ) -> int:
        """Run *command* in the run's container; return its exit code. Output goes to *sink*."""
        body = {"command": list(command)}
        with self._engine.stream("POST", _run_path(name, "exec"), json=body) as answer:
            for line in lines(answer):
                message = json.loads(line)
                if "exit_code" in message:
                    return int(message["exit_code"])
                if "error" in message:
                    raise error_of(message["error"])
                frame = frame_from_json(message)
                sink(frame.stream, frame.payload)
        raise EngineError("The engine went away while the command ran.")

    def shell_command(self, name: str) -> list[str]:
        """Return the command that opens a shell in the run, for a terminal on this computer."""
        answer = self._engine.send("GET", _run_path(name, "shell"))
        return [str(word) for word in answer.json()]

    def read_files(self, name: str, path: str) -> Iterator[bytes]:
        """Yield the file or folder *path* of the run as a tar; raise `NotFound`."""
        with self._engine.stream("GET", _run_path(name, "files"), params={"path": path}) as answer:
            yield from answer.iter_raw()

    def missing_blobs(self, manifest: bytes) -> list[str]:
        """Return which of the files in *manifest* the engine does not have yet."""
        answer = self._engine.send("POST", "/v1/files/missing", content=manifest)
        return [str(digest) for digest in answer.json()]

    def send_blobs(self, chunks: Iterable[bytes]) -> list[str]:
        """Send files that are missing, in the form of `dstack_engine.files`.

        Returns the digests of those that had changed on the way and are to be sent again.
        """
        answer = self._engine.send("POST", "/v1/files/blobs", content=chunks, timeout=600.0)
        return [str(digest) for digest in answer.json()]

    def keep_tree(self, manifest: bytes) -> str:
        """Keep *manifest*; return its digest, which a run's `files` names."""
        return str(self._engine.send("POST", "/v1/files/trees", content=manifest).json())

    # --- the event stream --------------------------------------------------------------------

    def updates(
        self,
        *,
        cursor: str | None = None,
        logs: Collection[str] = (),
        reconnect: bool = True,
        leash: Leash | None = None,
    ) -> Iterator[Update]:
        """Yield what happens to all records, and what the runs named in *logs* print; endless.

        Without *cursor* it begins with the present. A broken stream is taken up again where it
        was, also with an engine that was restarted, unless *reconnect* is false. Ends when the
        client is closed; without *reconnect*, cutting the *leash* raises `EngineError`.
        """
        failures = 0
        while not self._closed.is_set():
            try:
                for update in self._updates_once(cursor, logs, leash):
                    failures = 0
                    if isinstance(update, (RecordChanged, LogWritten, CaughtUp)):
                        cursor = update.cursor
                    yield update
            except EngineError:
                if self._closed.is_set():
                    return
                if not reconnect:
                    raise
            if not reconnect:
                return
            self._closed.wait(RECONNECT_WAITS[min(failures, len(RECONNECT_WAITS) - 1)])
            failures += 1

    def _updates_once(
        self, cursor: str | None, logs: Collection[str], leash: Leash | None
    ) -> Iterator[Update]:
        params: dict[str, Any] = {"logs": list(logs), **({"cursor": cursor} if cursor else {})}
        with self._engine.stream(
            "GET", "/v1/events", leash=leash, params=params, timeout=STREAM_TIMEOUT
        ) as answer:
            kind, data, place = "", "", ""
            for line in lines(answer):
                if line.startswith("data: "):
                    data = line[6:]
                elif line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("id: "):
                    place = line[4:]
                elif not line and kind:
                    update = decode(kind, data, place)
                    kind = ""
                    if update is not None:
                        yield update


def _dump(configuration: Runnable) -> Any:
    return configuration.model_dump(mode="json", exclude_unset=True)


def _run_path(name: str, verb: str | None = None) -> str:
    if not name or not NAME_LIKE.fullmatch(name):
        raise NotFound(f"{name!r} is not a run's name.")
    return f"/v1/runs/{name}" + (f"/{verb}" if verb else "")
