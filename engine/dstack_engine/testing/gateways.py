"""A gateway that tells what it is to tell, for tests of the engine's side of services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from dstack_engine.records.publication import (
    GATEWAY_PORT,
    GatewayReport,
    Publication,
    PublishedService,
    ReplicaReport,
    ReplicaState,
    ServiceReport,
)


class FakeGatewayLink:
    """A gateway without traffic: every replica is ready at once, and drained when it is to be.

    `report_on` says what else it is to report of a service; `tell` sends a report to the engine.
    """

    def __init__(self, on_report: Callable[[GatewayReport], None] = lambda _report: None) -> None:
        self.on_report = on_report
        self.published: list[Publication] = []
        self.report: GatewayReport | None = None
        self.port: int | None = None
        self.trouble: str | None = None
        self.stopped: bool | None = None
        #: Replicas' jobs that never answer their probe, and requests that each is answering.
        self.unready: set[str] = set()
        self.answering: dict[str, int] = {}
        self._facts: dict[str, Mapping[str, object]] = {}

    def start(self) -> None:
        """Do nothing: there is no process."""

    def publish(self, publication: Publication) -> None:
        """Keep it, and report on it at once."""
        self.published.append(publication)
        self.port = self.port or (GATEWAY_PORT if publication.services else None)
        self.tell()

    def stop(self, *, gateway_too: bool = False) -> None:
        """Note whether the gateway was to end, too."""
        self.stopped = gateway_too

    def report_on(self, run: str, **facts: object) -> None:
        """Report *facts* (fields of `ServiceReport`) of that service from now on."""
        self._facts[run] = facts
        self.tell()

    def tell(self) -> None:
        """Send a report on what was published last."""
        if not self.published:
            return
        told = self.published[-1]
        services = tuple(self._report_of(service) for service in told.services)
        self.report = GatewayReport(told.version, 1, self.port or 0, services)
        self.on_report(self.report)

    def _report_of(self, service: PublishedService) -> ServiceReport:
        replicas = tuple(
            ReplicaReport(
                one.job, self._state_of(one.job, one.draining), self.answering.get(one.job, 0)
            )
            for one in service.replicas
        )
        report = ServiceReport(service.run, service.run_id, replicas)
        return replace(report, **self._facts.get(service.run, {}))  # type: ignore[arg-type]

    def _state_of(self, job: str, draining: bool) -> ReplicaState:
        if draining:
            return ReplicaState.DRAINING
        return ReplicaState.PROBING if job in self.unready else ReplicaState.READY
