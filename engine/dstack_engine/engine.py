"""The engine: puts the parts together, and is what the API calls.

One per home. `open` finds everything again that an earlier engine left: runs in the database,
containers and supervisors by their names, output by its offsets; the loops go on from there.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone

import psutil

from dstack_engine import __version__
from dstack_engine.decisions.publication import models_of
from dstack_engine.errors import Conflict, CursorTooOld, LeaseLost, NotFound, Refused
from dstack_engine.fleets import Fleets
from dstack_engine.hosts.base import Host, OpensShells
from dstack_engine.hosts.logs import LogFrame, LogReader
from dstack_engine.reconcilers.fleets import FleetReconciler
from dstack_engine.reconcilers.instances import InstanceReconciler
from dstack_engine.reconcilers.jobs import JobReconciler
from dstack_engine.reconcilers.loop import Loop
from dstack_engine.reconcilers.routes import RouteReconciler
from dstack_engine.reconcilers.runs import RunReconciler
from dstack_engine.reconcilers.traffic import TrafficListener
from dstack_engine.reconcilers.world import World
from dstack_engine.records.events import Event, Frame, Stream
from dstack_engine.records.instances import Instance
from dstack_engine.records.jobs import Job, JobStatus
from dstack_engine.records.offers import Offer, OfferId, Plan
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import Run, RunView
from dstack_engine.records.sightings import Container
from dstack_engine.records.updates import (
    PROTOCOL,
    EngineInfo,
    EngineSettings,
    GatewayView,
    ModelView,
)
from dstack_engine.spec.configurations import Runnable
from dstack_engine.store.store import Kept
from dstack_engine.streams import Cursor
from dstack_engine.submissions import Submission, Submissions, run_id_of
from dstack_engine.tokens import digest_of, make_token

logger = logging.getLogger(__name__)


class Engine:
    """Everything the API can ask for. Every method may be called from any thread."""

    def __init__(self, world: World) -> None:
        """Work in *world*; nothing runs before `start`."""
        self.world = world
        self.started_at = datetime.now(timezone.utc)
        runs, jobs, instances, routes = (
            RunReconciler(world),
            JobReconciler(world),
            InstanceReconciler(world),
            RouteReconciler(world, [digest_of(make_token(world.home))]),
        )
        self._jobs = jobs
        self._submissions = Submissions(world)
        fleets = FleetReconciler(world, instances.look_again)
        self.fleets = Fleets(world, fleets.tick, instances.look_again)
        world.heed = TrafficListener(world).heed
        world.loops.update(
            runs=Loop("runs", runs.tick, runs.keys, workers=2),
            jobs=Loop("jobs", jobs.tick, jobs.keys, workers=4),
            instances=Loop("instances", instances.tick, instances.keys, workers=2),
            fleets=Loop("fleets", fleets.tick, fleets.keys, workers=1),
            routes=Loop("routes", routes.tick, routes.keys, workers=1),
        )
        world.store.listen(lambda _events: world.live.ring())

    def start(self) -> None:
        """Begin to work: take up what an earlier engine left, and whatever is submitted."""
        self.world.gateway.start()
        for loop in self.world.loops.values():
            loop.start()

    def stop(self) -> None:
        """End the loops; runs go on, and an engine started later finds them.

        So does the gateway, while there is a service that it serves.
        """
        self.world.activities.stop()
        for loop in self.world.loops.values():
            loop.stop()
        self.world.machines.close()
        runs = [kept.record for kept in self.world.store.runs(finished=False)]
        self.world.gateway.stop(gateway_too=all(run.service is None for run in runs))

    # --- the engine itself -------------------------------------------------------------------

    def describe(self) -> EngineInfo:
        """Return this engine's version, process and load."""
        return EngineInfo(
            version=__version__,
            protocol=PROTOCOL,
            pid=os.getpid(),
            started_at=self.started_at,
            home=str(self.world.home.root),
            active_runs=len(self.world.store.runs(finished=False)),
            memory_mb=psutil.Process().memory_info().rss / (1 << 20),
        )

    def client_settings(self) -> EngineSettings:
        """Return the settings that clients must know."""
        settings = self.world.settings
        return EngineSettings(settings.files_limit_bytes, settings.max_files)

    # --- plan, submit, stop ------------------------------------------------------------------

    def plan(self, configuration: Runnable) -> Plan:
        """Return the offers for *configuration*, the best first, and why others were refused."""
        return self._submissions.plan(configuration)

    def submit(
        self,
        configuration: Runnable,
        *,
        submission: str,
        offers: Sequence[OfferId] = (),
        environment: Mapping[str, str] | None = None,
        files: str | None = None,
        project: str | None = None,
    ) -> RunView:
        """Save a run; the loops do the rest. The same *submission* twice is one run.

        Raises `Refused`, `NoOffers`, `Conflict` (the name, or one of its ports, is taken).
        """
        asked = Submission(submission, configuration, offers, environment or {}, files, project)
        return self.view(self._submissions.take(asked))

    def stop_run(self, name: str, *, abort: bool = False) -> RunView:
        """Write the wish to end the run; the loops do it. Asked again, it changes nothing.

        An abort after a stop hurries it.
        """
        while True:
            kept = self._named(name)
            run = kept.record
            if run.finished or (run.stop_requested_at is not None and run.abort >= abort):
                return self.view(run)
            now = self.world.clock()
            wished = replace(run, stop_requested_at=run.stop_requested_at or now, abort=abort)
            try:
                with self.world.store.transaction(now) as transaction:
                    transaction.save(kept, wished)
            except LeaseLost:
                continue
            self.world.wake("runs", run.id)
            for job in self.world.store.jobs(run_id=run.id, finished=False):
                self.world.wake("jobs", job.record.id)
            return self.view(wished)

    def rerun(self, name: str, *, submission: str) -> RunView:
        """Save a run like the one of that name, with its files and the variables' values it had.

        It takes the name over from a run that has ended, and a random one beside a living run. Of
        the offers that were agreed to, those are tried that still are there. Raises as `submit`,
        and `NotFound` for files of it that are pruned.
        """
        known = self.world.store.run_by_id(run_id_of(submission))
        if known is not None:
            return self.view(known.record)
        run = self._named(name).record
        named = {"name": run.name if run.finished else None}
        configuration = run.configuration.model_copy(update=named)
        return self.submit(
            configuration,
            submission=submission,
            offers=_still_there(run.offers, self._submissions.plan(configuration)),
            environment=run.environment,
            files=run.files,
            project=run.project,
        )

    def delete_run(self, name: str) -> None:
        """Forget an ended run: its records, log and containers; raise `Conflict` while it lives."""
        run = self._named(name).record
        if not run.finished:
            raise Conflict(
                f"Run {name!r} is {run.status}.", hint=f"Stop it first: %dstack stop {name}"
            )
        with self.world.store.transaction(self.world.clock()) as transaction:
            transaction.delete_run(run)
        self.world.wake("reaper", "all")

    # --- look --------------------------------------------------------------------------------

    def run(self, name: str) -> RunView:
        """Return the run of that name; raise `NotFound` with the names that are like it."""
        return self.view(self._named(name).record)

    def runs(self, *, everything: bool) -> list[RunView]:
        """Return the active runs, the newest first; the ended ones too with *everything*."""
        kept = self.world.store.runs(finished=None if everything else False)
        found = [one.record for one in kept]
        jobs = self.world.store.jobs_of_runs([run.id for run in found])
        return [RunView(run.without_secrets(), tuple(jobs[run.id])) for run in found]

    def instances(self) -> list[Instance]:
        """Return the machines that are not gone, by name."""
        found = [kept.record for kept in self.world.store.instances(finished=False)]
        return sorted(found, key=lambda instance: instance.name)

    def view(self, run: Run) -> RunView:
        """Return the run as it is shown."""
        jobs = tuple(kept.record for kept in self.world.store.jobs(run_id=run.id))
        return RunView(run.without_secrets(), jobs)

    def find_job(
        self, name: str, replica: int | None = None, node: int | None = None
    ) -> Job | None:
        """Return the newest attempt of the run's first node, or of the named one; None before it.

        *replica* and *node* are numbers; the first where the other alone is given.
        """
        view = self.run(name)
        if replica is None and node is None:
            return view.job
        return view.newest(replica or 0, node or 0)

    def newest_job(self, name: str, replica: int | None = None, node: int | None = None) -> Job:
        """Return what `find_job` returns; raise `NotFound` where there is none."""
        job = self.find_job(name, replica, node)
        if job is None and node:
            raise NotFound(f"Run {name!r} has no node {node}.")
        if job is None and replica is not None:
            raise NotFound(f"Run {name!r} has no replica {replica}.")
        if job is None:
            raise NotFound(f"Run {name!r} has not begun: there is nothing of it to see yet.")
        return job

    def logs_of(self, name: str) -> dict[str, int]:
        """Return the names of the logs of a run, with the end of each; none where it is not there.

        A log is named as its container: a name that no later run of the same name has again.
        """
        try:
            run = self.world.store.run(name).record
        except NotFound:
            return {}
        jobs = [kept.record for kept in self.world.store.jobs(run_id=run.id)]
        return {job.container: self.log(job).end for job in jobs}

    def history(self, *, after: int, run: str | None, limit: int) -> list[Event]:
        """Return what happened later than event number *after*; to one run, or to all."""
        run_id = self._named(run).record.id if run is not None else None
        return self.world.store.events(after=after, run_id=run_id, limit=limit)

    def find_cursor(self, text: str | None) -> Cursor:
        """Return the place in the event stream that *text* names; the present for None.

        Raises `CursorTooOld` where the events after that place are forgotten already.
        """
        store = self.world.store
        if text is None:
            return Cursor(store.last_sequence())
        cursor = Cursor.parse(text)
        if cursor.sequence + 1 < store.first_sequence():
            raise CursorTooOld(
                "What happened since then is partly forgotten.",
                hint="Read the runs as they are now, and begin the stream with the present.",
            )
        return cursor

    # --- services ----------------------------------------------------------------------------

    def gateway(self) -> GatewayView:
        """Return where services and models are reached."""
        return GatewayView(self.world.gateway.port)

    def models(self) -> list[ModelView]:
        """Return the models that are served, by name, with what was asked of each."""
        runs = [kept.record for kept in self.world.store.runs(finished=False)]
        return models_of(runs, self.world.gateway.report)

    def service_report(self, name: str) -> ServiceReport | None:
        """Return the service's traffic as its gateway saw it last; None before it told of it.

        Raises `NotFound`, and `Conflict` for a run that is no service.
        """
        run = self._named(name).record
        if run.configuration.type != "service":
            raise Conflict(f"Run {name!r} is a {run.configuration.type}, no service.")
        return self.world.traffic_of(run.id)

    # --- into the container ------------------------------------------------------------------

    def read_log(self, log: str, offset: int, max_bytes: int) -> list[Frame]:
        """Return what the job whose log has that name printed at *offset*; [] at the end."""
        reader = LogReader(self.world.home.logs / log)
        return [_frame(found) for found in reader.read(offset, max_bytes)]

    def log(self, job: Job) -> LogReader:
        """Return the reader of the job's output."""
        return LogReader(self._jobs.log_of(job))

    def require_running(self, name: str) -> None:
        """Raise `NotFound` or `Conflict` unless the run runs."""
        self._running_job(name)

    def execute(
        self, name: str, command: Sequence[str], sink: Callable[[Stream, bytes], None]
    ) -> int:
        """Run *command* in the run's container; return its exit code. Raises `NotFound`."""
        job = self._running_job(name)
        return self._host(job).execute(job.container, command, sink).exit_code

    def shell_command(self, name: str) -> Sequence[str]:
        """Return the command that opens a shell in the run, from a terminal on this computer."""
        job = self._running_job(name)
        host = self._host(job)
        if not isinstance(host, OpensShells):
            raise Refused(f"A run on {job.offer.host if job.offer else 'this host'} has no shell.")
        return host.shell_command(job.container)

    def read_files(self, name: str, path: str) -> Iterator[bytes]:
        """Yield *path* of the run's container as a tar, also after its end."""
        job = self.newest_job(name)
        return self._host(job).read_files(job.container, path)

    # --- small -------------------------------------------------------------------------------

    def _host(self, job: Job) -> Host:
        if job.offer is None:
            raise NotFound(f"Run {job.run_name!r} has no place yet: it is {job.status}.")
        return self.world.host_of(job)

    def _running_job(self, name: str) -> Job:
        job = self.newest_job(name)
        # What it prints may be seen a moment before the job loop has seen that it runs.
        starting = job.status is JobStatus.PULLING
        if starting and self._host(job).look(job.container).container is Container.UP:
            return job
        if job.status is not JobStatus.RUNNING:
            raise Conflict(f"Run {name!r} does not run: it is {job.status}.")
        return job

    def _named(self, name: str) -> Kept[Run]:
        try:
            return self.world.store.run(name)
        except NotFound as error:
            names = self.world.store.run_names()
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "%dstack ps -a lists all runs."
            raise NotFound(error.message, hint=hint) from error


def _still_there(agreed: Sequence[Offer], plan: Plan) -> list[OfferId]:
    """Return which of the offers *agreed* to are in *plan*; raise `Conflict` where none is."""
    there = {offer.id for offer in plan.offers}
    found = [offer.id for offer in agreed if offer.id in there]
    if agreed and there and not found:
        raise Conflict(
            f"The offer {agreed[0].id!r} that it ran on is not there any more.",
            hint="Run its cell again, and choose among the offers that there are now.",
        )
    return found


def _frame(found: LogFrame) -> Frame:
    return Frame(
        offset=found.offset,
        next_offset=found.next_offset,
        stream=Stream(found.stream_name),
        at=datetime.fromtimestamp(found.time_ns / 1e9, timezone.utc),
        payload=found.payload,
    )
