"""What the gateway has counted, as Prometheus reads it (text format 0.0.4).

`worker` answers `/metrics` with it. Where several processes serve, what all of them counted is
added up: it does not matter which of them is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dstack_engine.gateway.messages import merge
from dstack_engine.records.publication import GatewayReport, ReplicaState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Labels and value of one line; the suffix follows the family's name (`_sum`, `_count`).
Sample = tuple[str, tuple[tuple[str, str], ...], float]


@dataclass
class Family:
    """One metric: its help, and a line for each set of labels."""

    name: str
    kind: str
    help: str
    samples: list[Sample] = field(default_factory=list)

    def add(self, value: float | None, suffix: str = "", **labels: str) -> None:
        """Add a line; none where there is no value."""
        if value is not None:
            self.samples.append((suffix, tuple(labels.items()), value))

    def lines(self) -> Iterable[str]:
        """Return the family's text, line by line."""
        yield f"# HELP {self.name} {_escaped_help(self.help)}"
        yield f"# TYPE {self.name} {self.kind}"
        for suffix, labels, value in self.samples:
            inner = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels)
            braces = f"{{{inner}}}" if inner else ""
            yield f"{self.name}{suffix}{braces} {_number(value)}"


def render(reports: Sequence[GatewayReport]) -> str:
    """Return the text for *reports*, one of each gateway process."""
    whole = merge(reports)
    families = [*_gateway(whole, len(reports)), *_services(whole), *_models(whole)]
    return "\n".join(line for family in families for line in family.lines()) + "\n"


def _gateway(whole: GatewayReport, processes: int) -> Iterable[Family]:
    count = Family("dstack_jupyter_gateway_processes", "gauge", "Processes that are counted here.")
    count.add(processes)
    version = Family(
        "dstack_jupyter_gateway_publication",
        "gauge",
        "Version of the publication that is served; the oldest, where processes differ.",
    )
    version.add(whole.version)
    return count, version


def _services(whole: GatewayReport) -> Iterable[Family]:
    prefix = "dstack_jupyter_service_"
    requests = Family(f"{prefix}requests_total", "counter", "Requests that were answered.")
    errors = Family(f"{prefix}errors_total", "counter", "Requests answered with 5xx, or cut.")
    in_flight = Family(f"{prefix}in_flight", "gauge", "Requests that are being answered.")
    held = Family(f"{prefix}held", "gauge", "Requests that wait for a replica.")
    rps = Family(f"{prefix}rps", "gauge", "Requests a second, over the last ten seconds.")
    replicas = Family(f"{prefix}replicas", "gauge", "Replicas, by the state they are in.")
    first_byte = Family(
        f"{prefix}first_byte_seconds",
        "gauge",
        "Time to the first byte of the answer over the last minute, by quantile.",
    )
    for service in sorted(whole.services, key=lambda each: each.run):
        run = service.run
        requests.add(service.requests, run=run)
        errors.add(service.errors, run=run)
        in_flight.add(service.in_flight, run=run)
        held.add(service.held, run=run)
        rps.add(service.rps, run=run)
        states = [each.state for each in service.replicas]
        for state in ReplicaState:
            replicas.add(states.count(state), run=run, state=state.value)
        first_byte.add(service.p50, run=run, quantile="0.5")
        first_byte.add(service.p95, run=run, quantile="0.95")
    return (requests, errors, in_flight, held, rps, replicas, first_byte, *_replicas(whole))


def _replicas(whole: GatewayReport) -> Iterable[Family]:
    prefix = "dstack_jupyter_replica_"
    requests = Family(f"{prefix}requests_total", "counter", "Requests that a replica answered.")
    errors = Family(f"{prefix}errors_total", "counter", "Requests that failed at a replica.")
    in_flight = Family(f"{prefix}in_flight", "gauge", "Requests that a replica is answering.")
    for service in sorted(whole.services, key=lambda each: each.run):
        for replica in service.replicas:
            labels = {"run": service.run, "job": replica.job}
            requests.add(replica.requests, **labels)
            errors.add(replica.errors, **labels)
            in_flight.add(replica.in_flight, **labels)
    return requests, errors, in_flight


def _models(whole: GatewayReport) -> Iterable[Family]:
    prefix = "dstack_jupyter_model_"
    requests = Family(f"{prefix}requests_total", "counter", "Requests to a model.")
    errors = Family(
        f"{prefix}errors_total", "counter", "Requests answered with 4xx or 5xx, cut, or not at all."
    )
    tokens = Family(
        f"{prefix}tokens_total", "counter", "Tokens that the engine told, of prompts and answers."
    )
    uncounted = Family(
        f"{prefix}uncounted_total", "counter", "Good answers whose engine told no tokens."
    )
    first = Family(f"{prefix}first_token_seconds", "summary", "Time to the answer's first piece.")
    lasted = Family(f"{prefix}seconds", "summary", "Time from a request to its answer's end.")
    for usage in sorted(whole.models, key=lambda each: (each.model, each.token)):
        labels = {"model": usage.model, "token": usage.token}
        requests.add(usage.requests, **labels)
        errors.add(usage.errors, **labels)
        tokens.add(usage.prompt_tokens, **labels, kind="prompt")
        tokens.add(usage.completion_tokens, **labels, kind="completion")
        uncounted.add(usage.uncounted, **labels)
        first.add(usage.first_token_seconds, "_sum", **labels)
        first.add(usage.requests, "_count", **labels)
        lasted.add(usage.seconds, "_sum", **labels)
        lasted.add(usage.requests, "_count", **labels)
    return requests, errors, tokens, uncounted, first, lasted


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
