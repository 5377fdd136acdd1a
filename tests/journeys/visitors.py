"""Those who visit services: real requests through a real gateway, and waiting until one is well.

Names of services are sent as `Host`, so that no resolver is asked for `*.localhost`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import httpx

from dstack_engine.errors import EngineDown, EngineError, NotFound
from dstack_engine.records.offers import OfferId
from dstack_engine.records.publication import ReplicaState, ServiceReport
from dstack_engine.records.runs import RunView
from dstack_engine.spec.configurations import ServiceConfiguration
from dstack_engine.spec.parsing import parse_configuration
from tests.journeys.engines import PROCESS, EngineProcess, until

#: Seconds that one request may take; held requests wait for a replica's start.
PATIENCE = 60.0


def service(text: str) -> ServiceConfiguration:
    """Return the service that *text* describes below `type: service`."""
    configuration = parse_configuration(f"type: service\n{text}")
    assert isinstance(configuration, ServiceConfiguration)
    return configuration


@dataclass(frozen=True)
class Visitors:
    """Whoever asks the services of one engine."""

    engine: EngineProcess

    def submit(self, text: str, offer: OfferId | None = PROCESS, **options: object) -> RunView:
        """Start the service that *text* describes, or give the living one of that name its text."""
        offers = () if offer is None else [offer]
        return self.engine.client.submit(service(text), offers=offers, **options)  # type: ignore[arg-type]  # as the client's own

    @property
    def port(self) -> int:
        """The gateway's port, once it listens."""
        until(self._listens, "the gateway to listen", self.engine.log_tail)
        port = self.engine.client.gateway().port
        assert port is not None
        return port

    @property
    def authorization(self) -> dict[str, str]:
        """The header that lets a visitor in."""
        return {"Authorization": f"Bearer {self.engine.client.token()}"}

    def url(self, run: str, path: str = "/") -> str:
        """Return the address by path of what *run* serves at *path*."""
        return f"http://127.0.0.1:{self.port}/services/{run}{path}"

    def get(
        self, run: str, path: str = "/", *, by_name: bool = False, token: bool = True
    ) -> httpx.Response:
        """Ask *run* for *path*, by its own name or by the gateway's path."""
        headers = self.authorization if token else {}
        if not by_name:
            return httpx.get(self.url(run, path), headers=headers, timeout=PATIENCE)
        headers["Host"] = f"{run}.localhost:{self.port}"
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=PATIENCE)

    def report(self, run: str) -> ServiceReport | None:
        """Return what the gateway sees of *run*, when it has told anything."""
        with suppress(EngineDown, EngineError, NotFound):
            return self.engine.client.service(run)
        return None

    def until_ready(self, run: str, replicas: int = 1) -> ServiceReport:
        """Return once so many replicas of *run* are ready."""

        def ready() -> bool:
            report = self.report(run)
            return report is not None and replicas == sum(
                replica.state is ReplicaState.READY for replica in report.replicas
            )

        until(ready, f"{replicas} ready replicas of {run}", lambda: self.facts(run))
        report = self.report(run)
        assert report is not None
        return report

    def facts(self, run: str) -> str:
        """Return what is known of *run*, for the message of a test that waits in vain."""
        view = self.engine.client.run(run)
        return f"{view}\n{self.report(run)}\n{self.engine.log_tail()}"

    def _listens(self) -> bool:
        with suppress(EngineDown, EngineError):
            return self.engine.client.gateway().port is not None
        return False
