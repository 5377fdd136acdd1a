"""What Prometheus reads of the gateway."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from dstack_engine.gateway.exposition import render
from dstack_engine.records.publication import (
    GatewayReport,
    ModelUsage,
    ReplicaReport,
    ReplicaState,
    ServiceReport,
)
from dstack_engine.spec.services import ServedModel
from tests.gateway.model_house import House, OpenAIServer
from tests.gateway.process_ground import Gateway, until

REPLICAS = (
    ReplicaReport("chat-0-0/1", ReplicaState.READY, in_flight=2, requests=9, errors=1),
    ReplicaReport("chat-0-1/1", ReplicaState.PROBING, trouble="connection refused"),
)
SERVICE = ServiceReport(
    "chat", "id", REPLICAS, in_flight=2, held=1, rps=1.5, p50=0.01, p95=0.2, requests=9, errors=1
)
USAGE = ModelUsage(
    "org/tiny",
    "12345678",
    requests=4,
    errors=1,
    prompt_tokens=70,
    completion_tokens=30,
    uncounted=2,
    first_token_seconds=0.5,
    seconds=2.5,
)

Values = dict[tuple[str, ...], float]


def values_of(*reports: GatewayReport) -> dict[str, Values]:
    """Return, of each metric, the values by labels, as Prometheus's own parser reads them."""
    return parsed(render(reports))


def parsed(text: str) -> dict[str, Values]:
    """Return, of each metric, the values by labels."""
    found: dict[str, Values] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.name.startswith("dstack_jupyter_")
        for sample in family.samples:
            labels = tuple(sample.labels.values())
            assert labels not in found.get(sample.name, {}), f"{sample.name}{labels} twice"
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def a_report(**said: object) -> GatewayReport:
    told = {"services": (SERVICE,), "models": (USAGE,), **said}
    return GatewayReport(version=7, pid=1, port=4180, **told)  # type: ignore[arg-type]


def test_a_gateway_s_counts_are_read_by_prometheus() -> None:
    values = values_of(a_report())
    assert values["dstack_jupyter_gateway_publication"] == {(): 7}
    assert values["dstack_jupyter_service_requests_total"] == {("chat",): 9}
    assert values["dstack_jupyter_service_errors_total"] == {("chat",): 1}
    assert values["dstack_jupyter_service_in_flight"] == {("chat",): 2}
    assert values["dstack_jupyter_service_held"] == {("chat",): 1}
    assert values["dstack_jupyter_service_rps"] == {("chat",): 1.5}
    assert values["dstack_jupyter_service_first_byte_seconds"] == {
        ("chat", "0.5"): 0.01,
        ("chat", "0.95"): 0.2,
    }
    assert values["dstack_jupyter_service_replicas"] == {
        ("chat", "probing"): 1,
        ("chat", "ready"): 1,
        ("chat", "ejected"): 0,
        ("chat", "draining"): 0,
    }
    assert values["dstack_jupyter_replica_in_flight"] == {
        ("chat", "chat-0-0/1"): 2,
        ("chat", "chat-0-1/1"): 0,
    }


def test_a_model_s_usage_is_told_for_each_token() -> None:
    values = values_of(a_report())
    who = ("org/tiny", "12345678")
    assert values["dstack_jupyter_model_requests_total"] == {who: 4}
    assert values["dstack_jupyter_model_errors_total"] == {who: 1}
    assert values["dstack_jupyter_model_tokens_total"] == {
        (*who, "prompt"): 70,
        (*who, "completion"): 30,
    }
    assert values["dstack_jupyter_model_uncounted_total"] == {who: 2}
    assert values["dstack_jupyter_model_first_token_seconds_sum"] == {who: 0.5}
    assert values["dstack_jupyter_model_seconds_sum"] == {who: 2.5}
    assert values["dstack_jupyter_model_seconds_count"] == {who: 4}


def test_what_several_processes_counted_is_added_up() -> None:
    other = ModelUsage("other", "", requests=1)
    values = values_of(a_report(), a_report(models=(USAGE, other)))
    assert values["dstack_jupyter_gateway_processes"] == {(): 2}
    assert values["dstack_jupyter_service_requests_total"] == {("chat",): 18}
    assert values["dstack_jupyter_service_replicas"]["chat", "ready"] == 1
    assert values["dstack_jupyter_model_requests_total"] == {
        ("org/tiny", "12345678"): 8,
        ("other", ""): 1,
    }


def test_a_gateway_without_traffic_tells_no_quantiles() -> None:
    quiet = ServiceReport("chat", "id")
    values = values_of(a_report(services=(quiet,), models=()))
    assert "dstack_jupyter_service_first_byte_seconds" not in values
    assert values["dstack_jupyter_service_requests_total"] == {("chat",): 0}


def test_a_model_s_name_may_be_anything() -> None:
    name = 'a "b" \\n\n{c="d"} ü, '
    values = values_of(a_report(models=(ModelUsage(name, "", requests=2),)))
    assert values["dstack_jupyter_model_requests_total"] == {(name, ""): 2}


@pytest.mark.slow
def test_each_of_two_processes_tells_what_both_have_counted(home: Path) -> None:
    gateway, server = Gateway(home, processes=2), OpenAIServer()
    with closing(House()) as house, closing(gateway):
        model = ServedModel(name="tiny", format="openai")
        gateway.publish("chat", house.serve(server.app), model=model)
        gateway.await_ready("chat")
        for number in range(12):
            answer = client_of(gateway).chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": str(number)}]
            )
            assert answer.usage is not None
        for _ in range(6):
            status, text = gateway.get("/metrics")
            assert status == 200
            values = parsed(text.decode())
            assert values["dstack_jupyter_gateway_processes"] == {(): 2}
            assert values["dstack_jupyter_model_requests_total"] == {("tiny", ""): 12}
            assert values["dstack_jupyter_model_tokens_total"]["tiny", "", "prompt"] == 84
        until(lambda: sum(each.requests for each in gateway.report.models) == 12)


def client_of(gateway: Gateway) -> OpenAI:
    """Return a client with a connection of its own, which either process may take."""
    return OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="none", max_retries=0)
