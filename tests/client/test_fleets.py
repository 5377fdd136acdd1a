"""Fleets through a client and a real engine, whose machines do not answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dstack_engine.address import find_engine
from dstack_engine.client import Client
from dstack_engine.errors import ArgumentError, Conflict, NotFound, Refused
from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_engine.records.fleets import Fleet, FleetStatus, FleetView
from dstack_engine.records.instances import Instance, InstanceStatus
from dstack_engine.records.updates import CaughtUp, RecordChanged
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.parsing import parse_configuration

pytestmark = pytest.mark.slow


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    client = connect(Home(home))
    yield client
    client.stop_engine(stop_runs=True)
    client.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this computer at which nobody listens, and nobody can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def a_fleet(port: int, name: str = "lab", more: str = "") -> FleetConfiguration:
    text = (
        f"type: fleet\nname: {name}\nssh_config:\n  hosts: [{{hostname: 127.0.0.1, port: {port}}}]"
    )
    configuration = parse_configuration(text + more)
    assert isinstance(configuration, FleetConfiguration)
    return configuration


def until(client: Client, condition: Callable[[FleetView], object]) -> FleetView:
    for _ in range(300):
        view = client.fleet("lab")
        if condition(view):
            return view
        time.sleep(0.1)
    raise AssertionError(f"the fleet is {client.fleet('lab')}")


def test_a_fleet_whose_machine_refuses_is_active_says_why_and_can_be_deleted_by_force(
    client: Client, closed_port: int
) -> None:
    stream = client.updates()
    assert isinstance(next(stream), CaughtUp)
    view = client.apply_fleet(a_fleet(closed_port))
    assert (view.fleet.name, view.fleet.configuration) == ("lab", a_fleet(closed_port))
    view = until(client, lambda view: view.instances and view.instances[0].examination)
    (machine,) = view.instances
    assert (view.fleet.status, machine.status) == (
        FleetStatus.ACTIVE,
        InstanceStatus.PROVISIONING,
    )
    assert machine.examination is not None
    assert any("refuses connections" in found.text for found in machine.examination.findings)
    told = [update.event.record for update, _ in zip(stream, range(4), strict=False)
            if isinstance(update, RecordChanged)]  # fmt: skip
    assert {type(record) for record in told} == {Fleet, Instance}

    assert client.fleets() == [client.fleet("lab")]
    assert client.apply_fleet(a_fleet(closed_port)).fleet.created_at == view.fleet.created_at
    with pytest.raises(Conflict, match="already"):
        client.apply_fleet(a_fleet(closed_port, "other"))
    before = machine.examination.at
    client.examine_fleet("lab")
    until(client, lambda v: v.instances[0].examination and v.instances[0].examination.at > before)
    client.trust("lab", 0)

    client.delete_fleet("lab", force=True)
    until(client, lambda view: view.fleet.finished)
    assert client.fleets() == []


def test_what_cannot_be_is_refused_in_the_engines_words(client: Client, closed_port: int) -> None:
    with pytest.raises(Refused, match="no cloud"):
        client.apply_fleet(FleetConfiguration.model_validate({"type": "fleet", "nodes": 2}))
    with pytest.raises(ArgumentError, match="cannot be a name"):
        client.apply_fleet(a_fleet(closed_port, "X"))
    for ask in (
        lambda: client.fleet("nowhere"),
        lambda: client.delete_fleet("nowhere"),
        lambda: client.examine_fleet("nowhere"),
        lambda: client.trust("nowhere", 0),
        lambda: client.fleet("../runs"),
    ):
        with pytest.raises(NotFound):
            ask()
    client.apply_fleet(a_fleet(closed_port))
    with pytest.raises(NotFound, match="no machine 3"):
        client.delete_fleet("lab", [3])
    client.delete_fleet("lab", force=True)


@pytest.mark.parametrize("numbers", ["x", "1,,2", "-1", "9" * 50, "1" * 9000])
def test_numbers_that_are_none_are_refused(client: Client, numbers: str) -> None:
    address = find_engine(client.home)
    assert address is not None
    answer = httpx.delete(
        f"http://127.0.0.1:{address.port}/v1/fleets/lab",
        params={"instances": numbers},
        headers={"authorization": f"Bearer {address.token}"},
    )
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "argument"
