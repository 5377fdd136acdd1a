"""What the gateway reports, handed on: to the streams, and to the run loop where it must act.

The gateway's link calls `heed` on threads of its own with every report; nothing is kept but what is
needed to tell a change.
"""

from __future__ import annotations

import threading

from dstack_engine.reconcilers.world import World
from dstack_engine.records.publication import GatewayReport, ReplicaState, ServiceReport

#: What a service's report says that the run loop acts on: each replica's state, and whether it
#: has anything in flight where it is draining; whether any request is held.
_Matters = tuple[tuple[tuple[str, ReplicaState, bool], ...], bool]


class TrafficListener:
    """Hands reports on."""

    def __init__(self, world: World) -> None:
        """Work in *world*."""
        self._world = world
        self._lock = threading.Lock()
        self._known: dict[str, _Matters] = {}
        self._told: dict[str, ServiceReport] = {}

    def heed(self, report: GatewayReport) -> None:
        """Wake the run loop for the services that changed, and the streams for what is new."""
        with self._lock:
            seen = {one.run_id: _matters(one) for one in report.services}
            changed = [run for run, matters in seen.items() if self._known.get(run) != matters]
            news = [one for one in report.services if self._told.get(one.run_id) != one]
            self._known, self._told = seen, {one.run_id: one for one in report.services}
        for run in changed:
            self._world.wake("runs", run)
        if news:
            self._world.live.ring(services=news)


def _matters(service: ServiceReport) -> _Matters:
    replicas = tuple(
        (one.job, one.state, one.state is ReplicaState.DRAINING and one.in_flight == 0)
        for one in service.replicas
    )
    return replicas, service.held > 0
