"""The table becomes what it is told, and what is being answered is not disturbed by it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import pytest

from dstack_engine.gateway.holding import NoReplica
from dstack_engine.gateway.probing import Prober
from dstack_engine.gateway.replicas import Replica
from dstack_engine.gateway.table import Table
from dstack_engine.records.publication import (
    Publication,
    PublishedReplica,
    PublishedService,
    ReplicaState,
)
from dstack_engine.spec.services import Probe, ServedModel
from tests.gateway.front_ground import run, until


class Trusting(Prober):
    """Finds every replica ready without asking; notes which it watches."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: list[str] = []

    def watch(self, replica: Replica, probes: Sequence[Probe]) -> None:
        self.watched.append(replica.job)
        replica.ready()


def a_replica(number: int = 0, **given: object) -> PublishedReplica:
    told = {"job": f"web-0-{number}/1", "host": "127.0.0.1", "port": 8000 + number} | given
    return PublishedReplica(**told)  # type: ignore[arg-type]


def a_service(*replicas: PublishedReplica, run: str = "web", **given: object) -> PublishedService:
    return PublishedService(run, f"id-{run}", replicas=replicas, **given)  # type: ignore[arg-type]


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def a_table() -> Table:
    return Table(prober=Trusting())


def test_services_and_replicas_come_and_go_as_told() -> None:
    table = a_table()
    table.apply(Publication(1, (a_service(a_replica()), a_service(run="other"))))
    assert set(table.services) == {"web", "other"}
    first = table.services["web"].choose()
    table.apply(Publication(2, (a_service(a_replica(), a_replica(1)),)))
    assert set(table.services) == {"web"}
    assert table.services["web"].replicas["web-0-0/1"] is first
    table.apply(Publication(3, (a_service(a_replica(1)),)))
    assert list(table.services["web"].replicas) == ["web-0-1/1"]


def test_what_is_being_answered_keeps_its_replica_until_the_end() -> None:
    urgent: list[None] = []
    table = Table(prober=Trusting(), on_urgent=lambda: urgent.append(None))
    table.apply(Publication(1, (a_service(a_replica(), a_replica(1)),)))
    service = table.services["web"]
    old = service.replicas["web-0-0/1"]
    old.begin()
    table.apply(Publication(2, (a_service(a_replica(draining=True), a_replica(1)),)))
    assert old.state is ReplicaState.DRAINING
    assert {service.choose() for _ in range(20)} == {service.replicas["web-0-1/1"]}
    table.apply(Publication(3, (a_service(a_replica(1)),)))
    assert service.report().replicas[0].in_flight == 1
    urgent.clear()
    old.end(failed=False)
    assert list(service.replicas) == ["web-0-1/1"]
    assert len(urgent) == 1


def test_a_draining_replica_stays_known_until_it_is_told_gone() -> None:
    table = a_table()
    table.apply(Publication(1, (a_service(a_replica()),)))
    table.apply(Publication(2, (a_service(a_replica(draining=True)),)))
    (report,) = table.services["web"].report().replicas
    assert (report.state, report.in_flight) == (ReplicaState.DRAINING, 0)


def test_a_replica_at_another_address_is_another_replica() -> None:
    table = a_table()
    table.apply(Publication(1, (a_service(a_replica()),)))
    first = table.services["web"].choose()
    table.apply(Publication(2, (a_service(a_replica(port=9000)),)))
    second = table.services["web"].choose()
    assert second is not first
    assert second is not None
    assert second.base == "http://127.0.0.1:9000"


def test_a_replica_that_is_not_to_drain_after_all_is_probed_anew() -> None:
    table = a_table()
    table.apply(Publication(1, (a_service(a_replica()),)))
    replica = table.services["web"].replicas["web-0-0/1"]
    table.apply(Publication(2, (a_service(a_replica(draining=True)),)))
    table.apply(Publication(3, (a_service(a_replica()),)))
    assert table.services["web"].choose() is replica


def test_replicas_are_not_probed_anew_when_something_else_changes() -> None:
    prober = Trusting()
    table = Table(prober=prober)
    table.apply(Publication(1, (a_service(a_replica()),)))
    table.apply(Publication(2, (a_service(a_replica(), a_replica(1), auth=False),)))
    assert prober.watched == ["web-0-0/1", "web-0-1/1"]


def test_something_older_undoes_nothing_unless_it_names_what_it_replaces() -> None:
    table = a_table()
    table.apply(Publication(5, (a_service(),)))
    table.apply(Publication(4, ()))
    assert (table.version, set(table.services)) == (5, {"web"})
    table.apply(Publication(4, ()), instead_of=3)
    assert table.version == 5
    table.apply(Publication(4, ()), instead_of=5)
    assert (table.version, set(table.services)) == (4, set())


def test_a_new_run_of_the_same_name_begins_anew() -> None:
    table = a_table()
    table.apply(Publication(1, (a_service(a_replica()),)))
    table.services["web"].arrive().close()
    table.apply(Publication(2, (PublishedService("web", "another id"),)))
    report = table.services["web"].report()
    assert (report.run_id, report.requests, report.replicas) == ("another id", 0, ())


def test_tokens_are_known_by_their_digest_and_named_by_its_beginning() -> None:
    table = a_table()
    assert table.knows("one") is None
    table.apply(Publication(1, tokens=(digest("one"), digest("two").upper())))
    assert table.knows("one") == digest("one")[:8]
    assert table.knows("two") == digest("two")[:8]
    for wrong in ("", "One", "one ", digest("one"), "\udcff\x00ü"):
        assert table.knows(wrong) is None
    table.apply(Publication(2, tokens=(digest("two"),)))
    assert table.knows("one") is None


def test_a_model_is_found_by_its_name_in_all_services_that_serve_it() -> None:
    table = a_table()
    model = ServedModel(name="tiny", format="openai")
    table.apply(
        Publication(
            1, (a_service(model=model), a_service(run="b", model=model), a_service(run="c"))
        )
    )
    assert table.models() == ["tiny"]
    assert [service.told.run for service in table.of_model("tiny")] == ["web", "b"]
    assert table.of_model("other") == []
    table.apply(Publication(2, (a_service(run="c"),)))
    assert table.models() == []


def test_who_waits_for_a_service_that_is_stopped_is_sent_away_with_the_reason() -> None:
    async def story() -> None:
        table = a_table()
        table.apply(Publication(1, (a_service(), a_service(run="other"))))
        waiting = [
            asyncio.create_task(service.hold(service.arrive()))
            for service in table.services.values()
        ]
        await until(lambda: all(s.holding.held for s in table.services.values()))
        stopping = a_service(holds=False, trouble="web failed: exit code 3")
        table.apply(Publication(2, (stopping,)))
        why = [str(each) for each in await asyncio.gather(*waiting, return_exceptions=True)]
        assert why == ["web failed: exit code 3", "other has been stopped."]

    run(story())


def test_who_waits_counts_as_held_and_not_as_being_answered() -> None:
    async def story() -> None:
        table = a_table()
        table.apply(Publication(1, (a_service(),)))
        service = table.services["web"]
        waiting = asyncio.create_task(service.hold(service.arrive()))
        await until(lambda: service.holding.held == 1)
        service.arrive()
        report = service.report()
        assert (report.held, report.in_flight) == (1, 1)
        table.apply(Publication(2, (a_service(a_replica()),)))
        assert (await waiting).job == "web-0-0/1"
        assert (service.report().held, service.report().in_flight) == (0, 2)

    run(story())


def test_nobody_is_held_where_nothing_is_coming() -> None:
    async def story() -> None:
        table = a_table()
        table.apply(Publication(1, (a_service(holds=False),)))
        service = table.services["web"]
        with pytest.raises(NoReplica, match="web is being stopped"):
            await service.hold(service.arrive())

    run(story())
