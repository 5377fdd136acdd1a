"""The engine's broom: reaps what is over, rescues what a crash left, prunes and examines.

`reap` runs at start, after a `delete`, and now and then. Containers are known by the label of this
home, so several engines on one Docker Engine leave each other's alone.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic

from dstack_engine.decisions.crashes import past_attempts
from dstack_engine.decisions.instances import is_ready, is_same_machine, trouble_of
from dstack_engine.engine import Engine
from dstack_engine.errors import DstackError, HostUnreachable
from dstack_engine.hosts.base import Host
from dstack_engine.reconcilers.containers import home_labels
from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance
from dstack_engine.records.jobs import Job
from dstack_engine.records.runs import cost_of
from dstack_engine.records.updates import PruneReport

logger = logging.getLogger(__name__)
#: How often the reaper looks when nothing wakes it.
REAP_INTERVAL = timedelta(minutes=10)

#: How long `stop_all_runs` waits for the runs to end, in seconds.
STOP_TIMEOUT = 90.0

#: Free space on the home's disk under which `doctor` warns, in GB.
LOW_DISK_GB = 5.0


class Housekeeping:
    """Keeps the home and the hosts free of what is over."""

    def __init__(self, engine: Engine, checks: Callable[[], Iterator[Finding]]) -> None:
        """Work for *engine*; *checks* yields what the hands found out about this computer."""
        self._engine = engine
        self._world = engine.world
        self._checks = checks
        engine.world.sweep = self._sweep

    def reap(self, _key: str = "all") -> timedelta | None:
        """Take away containers and logs of runs that are deleted, or ended long ago."""
        self._forget_attempts()
        self._reap(self._world.settings.keep_ended)
        self._world.store.forget_old_events()
        return REAP_INTERVAL

    def prune(self, *, everything: bool = False) -> PruneReport:
        """Take away ended runs' containers, logs and unused files now.

        With *everything* the ended runs are forgotten, too. Active runs are left alone.
        """
        runs = 0
        if everything:
            for kept in self._world.store.runs(finished=True):
                with self._world.store.transaction(self._world.clock()) as transaction:
                    transaction.delete_run(kept.record)
                runs += 1
        containers, log_bytes = self._reap(timedelta(0))
        used = {kept.record.files for kept in self._world.store.runs() if kept.record.files}
        freed = self._world.blobs.prune(used)
        return PruneReport(runs, containers, freed, log_bytes)

    def stop_all_runs(self) -> None:
        """Stop every active run, and wait until all have ended (at most `STOP_TIMEOUT`)."""
        changed = threading.Event()
        subscription = self._world.live.subscribe(changed.set)
        try:
            for kept in self._world.store.runs(finished=False):
                self._engine.stop_run(kept.record.name)
            begun = monotonic()
            while self._world.store.runs(finished=False) and monotonic() - begun < STOP_TIMEOUT:
                changed.wait(1)
                changed.clear()
        finally:
            self._world.live.unsubscribe(subscription)

    def doctor(self) -> list[Finding]:
        """Return what is well and what is missing on this computer."""
        return [*self._own_checks(), *self._checks()]

    def _own_checks(self) -> Iterator[Finding]:
        info = self._engine.describe()
        yield Finding(
            True,
            "engine",
            f"{info.version}, process {info.pid}, {info.memory_mb:.0f} MB, home {info.home}",
        )
        free_gb = shutil.disk_usage(self._world.home.root).free / (1 << 30)
        yield Finding(
            free_gb >= LOW_DISK_GB,
            "disk",
            f"{free_gb:.0f}GB free where the engine's home is",
            None
            if free_gb >= LOW_DISK_GB
            else "Free some: %dstack prune takes away ended runs' files.",
        )

        for machine in self._machines():
            trouble = trouble_of(machine)
            if trouble is not None:
                yield Finding(False, machine.name, trouble, f"%dstack fleet show {machine.fleet}")

    def _machines(self) -> Iterator[Instance]:
        """Yield the machines that are reached by SSH."""
        for kept in self._world.store.instances(finished=False):
            if kept.record.ssh is not None:
                yield kept.record

    def _forget_attempts(self) -> None:
        """Forget all but the newest attempts of services that live on: they may crash for weeks."""
        store = self._world.store
        for kept in store.runs(finished=False):
            if kept.record.service is None:
                continue
            past = past_attempts(store.jobs_of_runs([kept.record.id])[kept.record.id])
            if past:
                now = self._world.clock()
                run = kept.record
                spent = run.past_cost + sum(cost_of(job, now) for job in past)
                with store.transaction(now) as transaction:
                    transaction.save(kept, replace(run, past_cost=spent))
                    for job in past:
                        transaction.forget_job(job)

    def _reap(self, keep: timedelta) -> tuple[int, int]:
        removed = 0
        for host in self._world.hosts.values():
            removed += self._reap_if_it_answers(host, None, keep)
        for machine in filter(is_ready, self._machines()):
            host = self._world.machines.host(machine)
            removed += self._reap_if_it_answers(host, machine, keep)
        return removed, self._reap_logs(keep)

    def _sweep(self, machine: Instance) -> None:
        """Take away from a machine that answers again what has ended, or goes on elsewhere."""
        host = self._world.machines.host(machine)
        self._reap_host(host, machine, self._world.settings.keep_ended)

    def _reap_if_it_answers(self, host: Host, machine: Instance | None, keep: timedelta) -> int:
        try:
            return self._reap_host(host, machine, keep)
        except HostUnreachable:
            where = machine.name if machine is not None else "this computer"
            logger.debug("The %s host of %s does not answer; reaping it later.", host.kind, where)
            return 0

    def _reap_host(self, host: Host, machine: Instance | None, keep: timedelta) -> int:
        # Containers are listed before jobs are: one made in between belongs to a job we then see.
        names = host.list_containers(home_labels(self._world.home))
        jobs = self._jobs()
        removed = 0
        for name in names:
            job = jobs.get(name)
            try:
                if job is None or self._is_over(job, keep) or _is_elsewhere(job, host, machine):
                    host.remove(name)
                    removed += 1
                elif job.finished:
                    host.stop(name, timedelta(0))
            except HostUnreachable:
                raise
            except DstackError as error:
                logger.warning("container %s could not be removed: %s", name, error)
        return removed

    def _reap_logs(self, keep: timedelta) -> int:
        # As with containers: the folders first, then whose they are.
        folders = list(self._world.home.logs.iterdir())
        jobs = self._jobs()
        freed = 0
        for folder in folders:
            job = jobs.get(folder.name)
            if job is None or self._is_over(job, keep):
                freed += _size_of(folder)
                shutil.rmtree(folder, ignore_errors=True)
        return freed

    def _jobs(self) -> dict[str, Job]:
        return {kept.record.container: kept.record for kept in self._world.store.jobs()}

    def _is_over(self, job: Job, keep: timedelta) -> bool:
        return job.finished_at is not None and self._world.clock() - job.finished_at >= keep


def _is_elsewhere(job: Job, host: Host, machine: Instance | None) -> bool:
    """Tell whether the job has gone on elsewhere, having failed to start on this host.

    *machine* is the one that the host is on, None for this computer.
    """
    if job.offer is None:
        return False
    if machine is not None:
        return not is_same_machine(machine, job)
    return job.offer.instance is not None or job.offer.host is not host.kind


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
