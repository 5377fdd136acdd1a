"""What the engine knows, kept: records by compare-and-swap, and an event for every change.

Called by the reconcilers, the engine and the API, from any thread. SQLite in WAL mode; one
transaction holds everything that must become true together.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter

from dstack_engine.errors import Conflict, DiskFull, LeaseLost, NotFound
from dstack_engine.records.events import Event
from dstack_engine.records.fleets import Fleet
from dstack_engine.records.instances import Instance, InstanceStatus
from dstack_engine.records.jobs import Job
from dstack_engine.records.runs import Run
from dstack_engine.store import schema, tables

logger = logging.getLogger(__name__)

Record = Run | Job | Instance | Fleet
R = TypeVar("R", Run, Job, Instance, Fleet)

#: Events older than the newest so many are forgotten; a client that far behind starts anew.
EVENTS_KEPT = 20_000

#: A query names so many records at most: SQLite bears 32,766 values, older ones 999.
KEYS_AT_ONCE = 900


@dataclass(frozen=True)
class Kept(Generic[R]):
    """A record as it was read, with the version that a save must still find."""

    record: R
    version: int


@dataclass(frozen=True)
class _Kind(Generic[R]):
    word: str
    table: sa.Table
    key: str
    adapter: TypeAdapter[R]
    columns: Callable[[R], Mapping[str, Any]]

    def dump(self, record: R) -> str:
        return self.adapter.dump_json(record, exclude_unset=True).decode()


_RUN: _Kind[Run] = _Kind(
    "run",
    tables.runs,
    "id",
    TypeAdapter(Run),
    lambda run: {
        "id": run.id,
        "name": run.name,
        "finished": run.finished,
        "submitted_at": run.submitted_at.isoformat(),
    },
)
_JOB: _Kind[Job] = _Kind(
    "job",
    tables.jobs,
    "id",
    TypeAdapter(Job),
    lambda job: {
        "id": job.id,
        "run_id": job.run_id,
        "finished": job.finished,
        "submitted_at": job.submitted_at.isoformat(),
    },
)
_INSTANCE: _Kind[Instance] = _Kind(
    "instance",
    tables.instances,
    "name",
    TypeAdapter(Instance),
    lambda instance: {
        "name": instance.name,
        "finished": instance.status is InstanceStatus.TERMINATED,
    },
)

_FLEET: _Kind[Fleet] = _Kind(
    "fleet",
    tables.fleets,
    "name",
    TypeAdapter(Fleet),
    lambda fleet: {"name": fleet.name, "finished": fleet.finished},
)


def _kind_of(record: Record) -> _Kind[Any]:
    match record:
        case Run():
            return _RUN
        case Job():
            return _JOB
        case Instance():
            return _INSTANCE
        case Fleet():
            return _FLEET


class Store:
    """The engine's memory, on disk."""

    def __init__(self, path: Path) -> None:
        """Open or create the database at *path* (mode 0600), migrated to this version.

        Raises `StoreTooNew` when it was written by a newer version.
        """
        path.touch(mode=0o600, exist_ok=True)
        self._engine = sa.create_engine(
            f"sqlite:///{path}",
            connect_args={"timeout": 30, "check_same_thread": False},
            hide_parameters=True,  # records hold secrets, and errors are logged
        )
        sa.event.listen(self._engine, "connect", _configure_connection)
        sa.event.listen(self._engine, "begin", _begin_immediate)
        schema.upgrade(self._engine)
        self._writer = self._engine.execution_options(writes=True)
        self._writing = threading.Lock()
        self._listeners: list[Callable[[Sequence[Event]], None]] = []

    def close(self) -> None:
        """Close every connection; may be called twice."""
        self._engine.dispose()

    def listen(self, listener: Callable[[Sequence[Event]], None]) -> None:
        """Call *listener* with the new events after every commit, on the committing thread."""
        self._listeners.append(listener)

    # --- reading ---------------------------------------------------------------------------

    def run(self, name: str) -> Kept[Run]:
        """Return the run of that name; raise `NotFound` where there is none."""
        found = self._read(_RUN, tables.runs.c.name == name)
        if not found:
            raise NotFound(f"There is no run {name!r}.")
        return found[0]

    def run_by_id(self, run_id: str) -> Kept[Run] | None:
        """Return the run of that id, or None once it is deleted."""
        found = self._read(_RUN, tables.runs.c.id == run_id)
        return found[0] if found else None

    def runs(self, *, finished: bool | None = None) -> list[Kept[Run]]:
        """Return runs, the newest first; only (un)finished ones if *finished* says so."""
        condition = sa.true() if finished is None else tables.runs.c.finished == finished
        return self._read(_RUN, condition, newest_first=True)

    def run_names(self) -> list[str]:
        """Return the names of all runs."""
        with self._engine.connect() as connection:
            return list(connection.execute(sa.select(tables.runs.c.name)).scalars())

    def job(self, job_id: str) -> Kept[Job] | None:
        """Return the job of that id, or None once it is deleted."""
        found = self._read(_JOB, tables.jobs.c.id == job_id)
        return found[0] if found else None

    def jobs(self, *, run_id: str | None = None, finished: bool | None = None) -> list[Kept[Job]]:
        """Return jobs, the oldest first; of one run, or only (un)finished ones."""
        condition: sa.ColumnElement[bool] = sa.true()
        if run_id is not None:
            condition = sa.and_(condition, tables.jobs.c.run_id == run_id)
        if finished is not None:
            condition = sa.and_(condition, tables.jobs.c.finished == finished)
        return self._read(_JOB, condition)

    def jobs_of_runs(self, run_ids: Sequence[str]) -> dict[str, list[Job]]:
        """Return the jobs of many runs in few queries, by run id, the oldest first."""
        found: dict[str, list[Job]] = {run_id: [] for run_id in run_ids}
        for first in range(0, len(run_ids), KEYS_AT_ONCE):
            keys = run_ids[first : first + KEYS_AT_ONCE]
            for kept in self._read(_JOB, tables.jobs.c.run_id.in_(keys)):
                found[kept.record.run_id].append(kept.record)
        return found

    def instance(self, name: str) -> Kept[Instance] | None:
        """Return the instance of that name, or None."""
        found = self._read(_INSTANCE, tables.instances.c.name == name)
        return found[0] if found else None

    def instances(self, *, finished: bool | None = None) -> list[Kept[Instance]]:
        """Return instances; only (un)finished ones if *finished* says so."""
        condition = sa.true() if finished is None else tables.instances.c.finished == finished
        return self._read(_INSTANCE, condition)

    def fleet(self, name: str) -> Kept[Fleet] | None:
        """Return the fleet of that name, or None."""
        found = self._read(_FLEET, tables.fleets.c.name == name)
        return found[0] if found else None

    def fleets(self, *, finished: bool | None = None) -> list[Kept[Fleet]]:
        """Return fleets; only (un)finished ones if *finished* says so."""
        condition = sa.true() if finished is None else tables.fleets.c.finished == finished
        return self._read(_FLEET, condition)

    def events(self, *, after: int, run_id: str | None = None, limit: int = 1000) -> list[Event]:
        """Return events later than *after*, in order; of one run if *run_id* is given."""
        query = sa.select(tables.events).where(tables.events.c.sequence > after)
        if run_id is not None:
            query = query.where(tables.events.c.run_id == run_id)
        query = query.order_by(tables.events.c.sequence).limit(limit)
        with self._engine.connect() as connection:
            return [_event_of(row) for row in connection.execute(query)]

    def last_sequence(self) -> int:
        """Return the newest event's number; 0 where there is none."""
        with self._engine.connect() as connection:
            return (
                connection.execute(sa.select(sa.func.max(tables.events.c.sequence))).scalar() or 0
            )

    def first_sequence(self) -> int:
        """Return the oldest event's number that is still known; 0 where there is none."""
        with self._engine.connect() as connection:
            return (
                connection.execute(sa.select(sa.func.min(tables.events.c.sequence))).scalar() or 0
            )

    def _read(
        self,
        kind: _Kind[R],
        condition: sa.ColumnElement[bool],
        *,
        newest_first: bool = False,
    ) -> list[Kept[R]]:
        order: Any = sa.text("rowid DESC") if newest_first else sa.text("rowid")
        query = sa.select(kind.table.c.body, kind.table.c.version).where(condition)
        query = query.order_by(order)
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [Kept(kind.adapter.validate_json(body), version) for body, version in rows]

    # --- writing ---------------------------------------------------------------------------

    @contextmanager
    def transaction(self, now: datetime) -> Iterator[Transaction]:
        """Do everything inside or nothing; tell the listeners after the commit.

        Raises `DiskFull`.
        """
        with self._writing:
            with _disk_full_told(), self._writer.begin() as connection:
                transaction = Transaction(connection, now)
                yield transaction
            events = tuple(transaction.events)
        if events:
            for listener in self._listeners:
                listener(events)

    def forget_old_events(self) -> None:
        """Delete all but the newest `EVENTS_KEPT` events."""
        oldest = self.last_sequence() - EVENTS_KEPT
        with self._writing, self._writer.begin() as connection:
            connection.execute(sa.delete(tables.events).where(tables.events.c.sequence <= oldest))


class Transaction:
    """The writing half of the store, while a transaction lasts."""

    def __init__(self, connection: sa.Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now
        self.events: list[Event] = []

    def insert(self, record: Record) -> None:
        """Add a new record; raise `Conflict` where its name is taken."""
        kind = _kind_of(record)
        values = {**kind.columns(record), "body": kind.dump(record), "version": 1}
        try:
            self._connection.execute(sa.insert(kind.table).values(values))
        except sa.exc.IntegrityError as error:
            name = record.id if isinstance(record, Job) else record.name
            raise Conflict(f"There is a {kind.word} named {name!r} already.") from error
        self._append(kind, record)

    def save(self, kept: Kept[R], after: R, *, told: bool = True) -> Kept[R]:
        """Write *after* over the record that was read; raise `LeaseLost` when it has changed.

        No event is made of it where it is not to be *told*: what changed is nobody else's affair.
        """
        if after == kept.record:
            return kept
        kind = _kind_of(after)
        key = kind.table.c[kind.key]
        written = self._connection.execute(
            sa.update(kind.table)
            .where(key == kind.columns(after)[kind.key], kind.table.c.version == kept.version)
            .values({**kind.columns(after), "body": kind.dump(after), "version": kept.version + 1})
        )
        if written.rowcount != 1:
            raise LeaseLost(f"The {kind.word} changed while it was being worked on; trying again.")
        if told:
            self._append(kind, after)
        return Kept(after, kept.version + 1)

    def require(self, kept: Kept[R]) -> None:
        """Raise `LeaseLost` unless the record still is as it was read."""
        kind = _kind_of(kept.record)
        key = kind.table.c[kind.key]
        found = self._connection.execute(
            sa.select(kind.table.c.version).where(key == kind.columns(kept.record)[kind.key])
        ).scalar()
        if found != kept.version:
            raise LeaseLost(f"The {kind.word} changed meanwhile; trying again.")

    def delete_run(self, run: Run) -> None:
        """Forget a run and its jobs; its events stay."""
        self._connection.execute(sa.delete(tables.jobs).where(tables.jobs.c.run_id == run.id))
        self._connection.execute(sa.delete(tables.runs).where(tables.runs.c.id == run.id))
        self._append(_RUN, run, deleted=True)

    def forget_job(self, job: Job) -> None:
        """Forget one ended job of a run that goes on; its events stay."""
        self._connection.execute(sa.delete(tables.jobs).where(tables.jobs.c.id == job.id))

    def _append(self, kind: _Kind[Any], record: Record, *, deleted: bool = False) -> None:
        shown = record.without_secrets() if isinstance(record, Run) else record
        match record:
            case Run():
                run_id: str | None = record.id
            case Job():
                run_id = record.run_id
            case Instance() | Fleet():
                run_id = None
        result = self._connection.execute(
            sa.insert(tables.events).values(
                at=self._now.isoformat(),
                kind=kind.word,
                run_id=run_id,
                deleted=deleted,
                body=kind.dump(shown),
            )
        )
        key = result.inserted_primary_key
        assert key is not None
        self.events.append(Event(key[0], self._now, shown, deleted=deleted))


_KINDS: dict[str, _Kind[Any]] = {kind.word: kind for kind in (_RUN, _JOB, _INSTANCE, _FLEET)}


def _event_of(row: Any) -> Event:
    record = _KINDS[row.kind].adapter.validate_json(row.body)
    return Event(row.sequence, datetime.fromisoformat(row.at), record, deleted=row.deleted)


def _configure_connection(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _begin_immediate
    cursor = connection.cursor()
    # WAL with synchronous=NORMAL may lose the last commits on a power cut, never on a crash of
    # the process, and never corrupts; see SQLite's documentation of "PRAGMA synchronous".
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@contextmanager
def _disk_full_told() -> Iterator[None]:
    try:
        yield
    except sa.exc.OperationalError as error:
        # SQLite says "disk I/O error" where it could not even write its journal.
        if not any(words in str(error.orig) for words in ("disk is full", "disk I/O error")):
            raise
        raise DiskFull(
            "the disk of the engine's home is full: nothing can be saved",
            hint="Free some; runs go on when there is room.",
        ) from error


def _begin_immediate(connection: sa.Connection) -> None:
    # A deferred BEGIN that later writes can fail with SQLITE_BUSY at once; IMMEDIATE waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _is_writer(connection) else "BEGIN")


def _is_writer(connection: sa.Connection) -> bool:
    return bool(connection.get_execution_options().get("writes", False))
