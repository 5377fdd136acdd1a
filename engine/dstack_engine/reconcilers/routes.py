"""The route loop: what the records say is published, told to the gateway whenever it changes.

One key. It is woken by whatever changes a service or a replica's job; what it told last it knows
only in memory, so an engine that was restarted tells everything anew, once it has read it all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from dstack_engine.decisions.publication import publish
from dstack_engine.reconcilers.world import World
from dstack_engine.records.publication import Publication, PublishedService

logger = logging.getLogger(__name__)


class RouteReconciler:
    """Looks at all services, decides what is published, tells the gateway."""

    def __init__(self, world: World, tokens: Sequence[str]) -> None:
        """Work in *world*; *tokens* are the digests of those that the gateway lets through."""
        self._world = world
        self._tokens = tuple(tokens)
        self._told: Publication | None = None

    def keys(self) -> list[str]:
        """Return the one key."""
        return ["all"]

    def tick(self, _key: str) -> timedelta | None:
        """Tell the gateway what is published, if that has changed."""
        publication = self._decide()
        self._world.checkpoint("routes decided")
        told = self._told
        if told is not None and publication == replace(told, version=publication.version):
            return None
        self._world.gateway.publish(publication)
        self._told = publication
        _log_changes(told.services if told is not None else (), publication.services)
        self._world.checkpoint("routes told")
        return None

    def _decide(self) -> Publication:
        # Before anything is read: what is decided on older records has the older number.
        version = self._next_version()
        store = self._world.store
        runs = [kept.record for kept in store.runs(finished=False)]
        services = [run for run in runs if run.configuration.type == "service"]
        jobs = store.jobs_of_runs([run.id for run in services])
        return publish(services, jobs, version=version, tokens=self._tokens)

    def _next_version(self) -> int:
        """Return the time in milliseconds, or one more than what is known already."""
        now = int(self._world.clock().timestamp() * 1000)
        told = self._told.version if self._told is not None else 0
        report = self._world.gateway.report
        served = report.version if report is not None else 0
        return max(now, told + 1, served + 1)


def _log_changes(before: Sequence[PublishedService], after: Sequence[PublishedService]) -> None:
    known = {service.run_id: service for service in before}
    for service in after:
        old = known.pop(service.run_id, None)
        if old is None or old.replicas != service.replicas:
            given = [one.job for one in service.replicas if not one.draining]
            draining = [one.job for one in service.replicas if one.draining]
            logger.info(
                "service %s: published with %s; draining %s",
                service.run,
                ", ".join(given) or "no replica",
                ", ".join(draining) or "none",
            )
    for service in known.values():
        logger.info("service %s: published no more", service.run)
