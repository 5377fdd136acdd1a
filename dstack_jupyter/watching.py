"""The one thread of a kernel that reads the engine's events, for all runs shown or waited for.

Cards, `Run.wait` and the terminal's logs are followers of a run here: they hear of every change and
every piece of output, in order, once. It goes on where it was when the engine is restarted.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Protocol

from dstack_engine.client import Client
from dstack_engine.errors import CursorTooOld, DstackError, NotFound
from dstack_engine.records.events import Event, Frame, Progress
from dstack_engine.records.jobs import Job
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import Run, RunView
from dstack_engine.records.sightings import Usage
from dstack_engine.records.updates import (
    CaughtUp,
    LogWritten,
    Progressed,
    RecordChanged,
    ServiceSeen,
    Update,
    UsageSeen,
)
from dstack_engine.streams import Cursor
from dstack_jupyter.replicas import is_service, newest_jobs

logger = logging.getLogger(__name__)

#: Waits between attempts to reach an engine that is away, in seconds.
WAITS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
#: How long the stream may be behind what a look at the run has shown, in seconds.
LOOK_AHEAD = 5.0


class Follower(Protocol):
    """Who hears of a run, in the watcher's thread: to be quick, and not to ask the engine."""

    def update(self, view: RunView) -> None:
        """The run or one of its jobs has changed."""

    def log(self, frames: Sequence[Frame], log: str) -> None:
        """The run has printed something; *log* is the name of its job's container."""

    def progress(self, progress: Progress) -> None:
        """A job's preparation went on."""

    def usage(self, usage: Usage) -> None:
        """A job's use was measured."""

    def service(self, report: ServiceReport) -> None:
        """The traffic of the service that the run is was measured."""

    def ended(self) -> None:
        """The run has ended and all its output was told; nothing follows."""


@dataclass
class _Followed:
    """A run, and those who follow it."""

    run: Run
    jobs: dict[str, Job]
    followers: list[Follower] = field(default_factory=list)
    #: Whether any of them wants to hear what the run prints.
    output: bool = False
    #: The traffic that was last told of, where it is a service.
    report: ServiceReport | None = None
    #: When the engine was last asked how it stands, rather than told of it; `monotonic`.
    looked_at: float = -LOOK_AHEAD

    def knows_better(self, known: Run | Job | None, told: Run | Job) -> bool:
        """Tell whether *told* is older than a look just taken, which was ahead of the stream."""
        if known is None or told.finished or monotonic() - self.looked_at > LOOK_AHEAD:
            return False
        return told.since < known.since

    @property
    def view(self) -> RunView:
        """Return the run with its jobs, as last heard of."""
        return RunView(self.run, tuple(self.jobs.values()))


class Watcher:
    """Tells followers what happens to their runs. Thread-safe; one per `Session`."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        """Make a watcher; *connect* gives a client, or raises `EngineDown` while no engine runs."""
        self._connect = connect
        self._lock = threading.RLock()
        self._runs: dict[str, _Followed] = {}
        self._others: list[Watcher] = []
        self._cursor = Cursor()
        self._known = False  # whether the cursor names a place in the stream
        self._generation = 0
        self._closed = threading.Event()

    def follow(
        self,
        view: RunView,
        follower: Follower,
        *,
        offset: int | Mapping[str, int] | None = None,
        output: bool = True,
    ) -> None:
        """Tell *follower* of everything that happens to the run of *view* from now on.

        Output is told from its beginning, from *offset* in the log of the run's newest job (or, by
        their names, in several), or, without *output*, not at all. An ended run ends at once.
        """
        follower.update(view)
        with self._lock:
            followed = self._runs.get(view.run.id)
            if followed is not None and followed.report is not None:
                follower.service(followed.report)
            if followed is not None and not output:
                followed.followers.append(follower)
                return
            if followed is not None and followed.output:
                # A second reader of the same output stands at another place in it.
                other = Watcher(self._connect)
                self._others.append(other)
                other.follow(view, follower, offset=offset)
                return
            if followed is None:
                followed = _Followed(view.run, {job.id: job for job in view.jobs})
                self._runs[view.run.id] = followed
            followed.followers.append(follower)
            if output:
                self._read_output(followed, offset)
            self._subscribe()

    def _read_output(self, followed: _Followed, offset: int | Mapping[str, int] | None) -> None:
        followed.output = True
        for job in followed.jobs.values():
            self._cursor.offsets.pop(job.container, None)
        newest = followed.view.job
        if isinstance(offset, Mapping):
            self._cursor.offsets.update(offset)
        elif offset is not None and newest is not None:
            self._cursor.offsets[newest.container] = offset

    def forget(self, follower: Follower) -> None:
        """Tell *follower* nothing more."""
        with self._lock:
            for followed in self._runs.values():
                if follower in followed.followers:
                    followed.followers.remove(follower)
            others = list(self._others)
        for other in others:
            other.forget(follower)

    def close(self) -> None:
        """End the thread; followers hear nothing more."""
        with self._lock:
            self._closed.set()
            self._generation += 1
            self._runs.clear()
            others, self._others = self._others, []
        for other in others:
            other.close()

    # --- the thread --------------------------------------------------------------------------

    def _subscribe(self) -> None:
        # A stream's runs are named when it is opened, and a read cannot be interrupted. So a new
        # stream takes over at once where the old one was, and the old one ends when it next wakes.
        self._generation += 1
        threading.Thread(
            target=self._watch, args=(self._generation,), name="dstack-watcher", daemon=True
        ).start()

    def _watch(self, generation: int) -> None:
        failures = 0
        while self._is_current(generation):
            try:
                for update in self._stream():
                    failures = 0
                    if not self._take(update, generation):
                        return
            except CursorTooOld:
                # Nobody read for very long: begin with the present, and look at every run anew.
                self._known = False
            except DstackError as error:
                logger.debug("the event stream broke off: %s", error)
            except Exception:
                logger.exception("the event stream could not be read")
            self._closed.wait(WAITS[min(failures, len(WAITS) - 1)])
            failures += 1

    def _stream(self) -> Iterable[Update]:
        client = self._connect()
        with self._lock:
            names = [followed.run.name for followed in self._runs.values() if followed.output]
            # A log has the name of its job's container, which ends in its run's.
            ours = tuple(f"-{run[:6]}" for run in self._runs)
            for log in [log for log in self._cursor.offsets if not log.endswith(ours)]:
                del self._cursor.offsets[log]
            wants_place = not self._known and bool(self._cursor.offsets)
        if wants_place:
            self._find_place(client)
        cursor = str(self._cursor) if self._known else None
        return client.updates(cursor=cursor, logs=names, reconnect=False)

    def _find_place(self, client: Client) -> None:
        # Offsets are told in a cursor, and a cursor needs a place in the stream: the present one.
        for update in client.updates(reconnect=False):
            if isinstance(update, CaughtUp):
                with self._lock:
                    self._cursor.sequence = Cursor.parse(update.cursor).sequence
                    self._known = True
                return

    def _take(self, update: Update, generation: int) -> bool:
        """Tell followers of *update*; return whether this stream is still the one to read."""
        with self._lock:
            if not self._is_current(generation):
                return False
            match update:
                case RecordChanged(cursor, event):
                    self._move(cursor)
                    self._take_event(event)
                case LogWritten(cursor, run, log, frame):
                    self._move(cursor)
                    self._tell(self._named(run), lambda follower: follower.log((frame,), log))
                case Progressed(progress):
                    found = self._holding(progress.job)
                    self._tell(found, lambda follower: follower.progress(progress))
                case UsageSeen(job, usage):
                    found = self._holding(job)
                    if found is not None and found.jobs[job].node == 0:  # the one that is shown
                        self._tell(found, lambda follower: follower.usage(usage))
                case ServiceSeen(report):
                    self._take_report(self._runs.get(report.run_id), report)
                case CaughtUp(cursor):
                    self._move(cursor)
                    self._refresh()
            if not self._runs:
                # Nobody follows anything: the stream ends, and the next begins with the present.
                self._generation += 1
                self._known = False
                return False
            return True

    def _take_event(self, event: Event) -> None:
        record = event.record
        if isinstance(record, Run):
            followed = self._runs.get(record.id)
            known: Run | Job | None = followed.run if followed else None
        elif isinstance(record, Job):
            followed = self._runs.get(record.run_id)
            known = followed.jobs.get(record.id) if followed else None
        else:
            return
        if followed is None or followed.knows_better(known, record):
            return
        if isinstance(record, Run):
            followed.run = record
        else:
            followed.jobs[record.id] = record
        self._tell(followed, lambda follower: follower.update(followed.view))
        if followed.run.finished or event.deleted:
            self._end(followed)

    def _take_report(self, followed: _Followed | None, report: ServiceReport | None) -> None:
        if followed is None or report is None or report.run_id != followed.run.id:
            return
        followed.report = report
        self._tell(followed, lambda follower: follower.service(report))

    def _refresh(self) -> None:
        # What changed between the snapshot that a follower came with and the stream's beginning.
        client = self._connect()
        for followed in list(self._runs.values()):
            try:
                view = client.run(followed.run.name)
            except NotFound:
                self._end(followed)
                continue
            if view.run.id != followed.run.id:
                self._end(followed)  # ended and deleted, and its name is used again
                continue
            if view != followed.view:
                followed.run, followed.jobs = view.run, {job.id: job for job in view.jobs}
                followed.looked_at = monotonic()
                self._tell(followed, lambda follower, view=view: follower.update(view))  # type: ignore[misc]
            if view.finished:
                self._end(followed)
            elif is_service(view):
                with contextlib.suppress(DstackError):
                    self._take_report(followed, client.service(view.name))

    def _end(self, followed: _Followed) -> None:
        del self._runs[followed.run.id]
        view = followed.view
        for job in newest_jobs(view) if followed.output else ():
            if rest := self._rest(followed, job):
                self._tell(followed, partial(_log, frames=rest, log=job.container))
        self._tell(followed, lambda follower: follower.ended())

    def _rest(self, followed: _Followed, job: Job) -> Sequence[Frame]:
        """Return what the job printed last: a run's last event may come before its last output."""
        offset = self._cursor.offsets.get(job.container, 0)
        name = followed.run.name
        try:
            client = self._connect()
            return tuple(client.logs(name, offset=offset, replica=job.replica, node=job.node))
        except DstackError as error:
            logger.debug("the last output of %s could not be read: %s", job.id, error)
            return ()

    def _tell(self, followed: _Followed | None, tell: Callable[[Follower], None]) -> None:
        for follower in list(followed.followers) if followed else ():
            try:
                tell(follower)
            except Exception:
                # A view that cannot be drawn any more must not silence the others.
                logger.exception("a view of %s failed", followed.run.name if followed else "a run")
                if followed is not None and follower in followed.followers:
                    followed.followers.remove(follower)

    def _move(self, cursor: str) -> None:
        self._cursor = Cursor.parse(cursor)
        self._known = True

    def _named(self, name: str) -> _Followed | None:
        return next((one for one in self._runs.values() if one.run.name == name), None)

    def _holding(self, job: str) -> _Followed | None:
        return next((one for one in self._runs.values() if job in one.jobs), None)

    def _is_current(self, generation: int) -> bool:
        return generation == self._generation and not self._closed.is_set()


def _log(follower: Follower, frames: Sequence[Frame], log: str) -> None:
    follower.log(frames, log)
