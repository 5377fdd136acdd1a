"""Following a fleet until its machines were looked into, against a client of the test's own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from dstack_engine.connection import Leash
from dstack_engine.errors import EngineDown, NotFound
from dstack_engine.records.events import Event
from dstack_engine.records.fleets import Fleet, FleetView
from dstack_engine.records.instances import Instance, InstanceStatus
from dstack_engine.records.runs import RunView
from dstack_engine.records.updates import CaughtUp, RecordChanged, Update
from dstack_jupyter.fleet_watching import FleetWatcher, Looked
from dstack_jupyter.rendering.fleets import Runs
from tests.widgets.samples import NO_DOCKER, NOON, a_fleet, a_machine

PATIENCE = 10.0
LOOKING = a_machine(0, InstanceStatus.PENDING)
READY = a_machine(0)
BROKEN = a_machine(0, InstanceStatus.PROVISIONING, NO_DOCKER)


class OneFleet:
    """A client of an engine with one fleet, whose stream the test writes."""

    def __init__(self, view: FleetView) -> None:
        self.view: FleetView | None = view
        self.news: queue.Queue[Update | Exception | None] = queue.Queue()
        self.looks = 0

    def updates(self, *, reconnect: bool, leash: Leash) -> Iterator[Update]:
        yield CaughtUp("1")
        while not leash.is_cut:
            try:
                news = self.news.get(timeout=0.01)
            except queue.Empty:
                continue
            if news is None:
                return
            if isinstance(news, Exception):
                raise news
            yield news

    def fleet(self, name: str) -> FleetView:
        self.looks += 1
        if self.view is None:
            raise NotFound(name)
        return self.view

    def runs(self) -> list[RunView]:
        return []

    def tell(self, record: Instance | Fleet, view: FleetView | None) -> None:
        self.view = view
        self.news.put(RecordChanged("2", Event(2, NOON, record)))


class Ear:
    """A follower that notes what it hears."""

    def __init__(self) -> None:
        self.heard: queue.Queue[FleetView] = queue.Queue()
        self.over = threading.Event()

    def update(self, view: FleetView, runs: Runs) -> None:
        self.heard.put(view)

    def ended(self) -> None:
        self.over.set()

    def next(self) -> FleetView:
        return self.heard.get(timeout=PATIENCE)


@pytest.fixture
def ear() -> Ear:
    return Ear()


def a_watcher(client: OneFleet) -> FleetWatcher:
    return FleetWatcher(lambda: client)  # type: ignore[arg-type,return-value]


def test_a_fleet_is_followed_until_every_machine_can_be_used(ear: Ear) -> None:
    client = OneFleet(a_fleet(LOOKING))
    a_watcher(client).follow(a_fleet(LOOKING), ear)
    assert ear.next() == ear.next() == a_fleet(LOOKING)
    client.tell(replace(READY, fleet="other"), a_fleet(LOOKING))
    client.tell(BROKEN, a_fleet(BROKEN))
    assert ear.next() == a_fleet(BROKEN)
    assert not ear.over.is_set()
    client.tell(READY, a_fleet(READY))
    assert ear.next() == a_fleet(READY)
    assert ear.over.wait(PATIENCE)
    assert client.looks == 3


def test_an_engine_that_goes_away_is_asked_again(ear: Ear) -> None:
    client = OneFleet(a_fleet(LOOKING))
    a_watcher(client).follow(a_fleet(LOOKING), ear)
    ear.next(), ear.next()
    client.view = a_fleet(READY)
    client.news.put(EngineDown("No engine runs."))
    assert ear.next() == a_fleet(READY)
    assert ear.over.wait(PATIENCE)


def test_it_ends_with_its_fleet_and_when_nobody_mends_anything(ear: Ear) -> None:
    client = OneFleet(a_fleet(BROKEN))
    watcher = a_watcher(client)
    watcher.follow(a_fleet(BROKEN), ear)
    ear.next(), ear.next()
    client.tell(a_fleet(BROKEN).fleet, None)
    assert ear.over.wait(PATIENCE)
    patient = Ear()
    client.view = a_fleet(BROKEN)
    watcher.follow(a_fleet(BROKEN), patient, patience=0.05)
    assert patient.over.wait(PATIENCE)


def test_who_is_forgotten_hears_nothing_more(ear: Ear) -> None:
    client = OneFleet(a_fleet(BROKEN))
    watcher = a_watcher(client)
    watcher.follow(a_fleet(BROKEN), ear)
    ear.next(), ear.next()
    watcher.forget(ear)
    other = Ear()
    watcher.follow(a_fleet(BROKEN), other)
    other.next(), other.next()
    watcher.close()
    client.tell(READY, a_fleet(READY))
    assert not ear.over.wait(0.1)
    assert not other.over.is_set()
    assert ear.heard.empty()


def test_a_wait_is_over_once_each_was_looked_into_anew() -> None:
    old = a_fleet(READY, a_machine(1, InstanceStatus.PENDING))
    looked = Looked(old, NOON)
    looked.update(old, {})
    assert (looked.share, looked.over.is_set()) == (0.0, False)
    assert READY.examination is not None
    later = replace(READY.examination, at=NOON + timedelta(seconds=1))
    anew = replace(READY, examination=later)
    looked.update(a_fleet(anew, hosts=2), {})
    assert looked.share == 0.5
    looked.update(a_fleet(anew, replace(anew, number=1)), {})
    assert looked.over.is_set()
