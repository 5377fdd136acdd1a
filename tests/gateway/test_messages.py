"""What several workers saw is one report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstack_engine.gateway.messages import merge
from dstack_engine.records.publication import (
    GatewayReport,
    Load,
    ModelUsage,
    ReplicaReport,
    ReplicaState,
    ServiceReport,
)


def test_workers_reports_are_added_up() -> None:
    def a_report(version: int, state: ReplicaState, p95: float | None, rps: float) -> GatewayReport:
        service = ServiceReport(
            "web",
            "id-web",
            replicas=(ReplicaReport("web-0-0/1", state, 1, 10, 2, "refused"),),
            in_flight=1,
            held=2,
            loads=(Load(30, 6, 1, 0.5), Load(60, 12, 0, 0.25)),
            rps=rps,
            p50=p95,
            p95=p95,
            requests=10,
            errors=2,
        )
        usage = ModelUsage("tiny", "01234567", requests=4, completion_tokens=9, seconds=1.5)
        return GatewayReport(version, 7, 4180, (service,), (usage,))

    ready = a_report(5, ReplicaState.READY, 0.1, 3.0)
    assert merge([ready]) is ready
    merged = merge([a_report(6, ReplicaState.PROBING, 0.4, 1.0), ready])
    assert merged.version == 5
    (service,) = merged.services
    assert service.p95 == pytest.approx(0.175)
    assert replace(service, p50=None, p95=None) == ServiceReport(
        "web",
        "id-web",
        replicas=(ReplicaReport("web-0-0/1", ReplicaState.READY, 2, 20, 4, "refused"),),
        in_flight=2,
        held=4,
        loads=(Load(30, 12, 2, 1.0), Load(60, 24, 0, 0.5)),
        rps=4.0,
        requests=20,
        errors=4,
    )
    assert merged.models == (
        ModelUsage("tiny", "01234567", requests=8, completion_tokens=18, seconds=3.0),
    )
    nobody = a_report(5, ReplicaState.READY, None, 0.0)
    assert merge([nobody, nobody]).services[0].p50 is None
