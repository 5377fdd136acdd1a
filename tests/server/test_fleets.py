"""Fleets as a page sees them: their machines with what is to be mended, looked at again, let go."""

from __future__ import annotations

from typing import Any

import pytest

from dstack_engine.client import Client
from dstack_engine.records.instances import InstanceStatus
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_jupyter.server.rows import machine_rows
from tests.server.conftest import Ask
from tests.server.listening import Listener
from tests.server.test_handlers import fields_of, refused
from tests.widgets.samples import NO_DOCKER, NOON, a_machine


def a_fleet(*hosts: str) -> FleetConfiguration:
    """Return a fleet on ports of this computer where nothing listens."""
    ssh = {"user": "ann", "port": 1, "hosts": list(hosts)}
    configuration = configuration_from_dict({"type": "fleet", "name": "lab", "ssh_config": ssh})
    assert isinstance(configuration, FleetConfiguration)
    return configuration


def test_a_machines_row_has_its_checks_and_how_it_stands() -> None:
    broken = a_machine(1, InstanceStatus.PROVISIONING, NO_DOCKER)
    (row,) = machine_rows([broken], [])
    assert row.keys() == fields_of("IMachineRow")
    (check,) = row["checks"]
    assert check.keys() == fields_of("ICheckRow")
    assert (row["fleet"], row["number"], row["host"]) == ("lab", 1, "ubuntu@10.0.0.6")
    assert (row["word"], row["sign"]) == ("not usable", "✗")
    assert check == {"mark": "✗", "text": "docker: ubuntu may not use it", "fix": NO_DOCKER.fix}
    assert NOON.isoformat() not in str(row)


@pytest.mark.slow
async def test_a_fleet_is_told_of_looked_at_again_and_let_go(
    ask: Ask, client: Client, events: Listener
) -> None:
    await events.open()
    await ask("state")
    client.apply_fleet(a_fleet("127.0.0.1", "127.0.0.2"))

    def is_broken(change: dict[str, Any]) -> bool:
        rows = change.get("machines", ())
        return any(row["name"] == "lab-0" and row["checks"] for row in rows)

    def is_gone(change: dict[str, Any]) -> bool:
        rows = change.get("machines", ())
        return any(row["name"] == "lab-0" and row["status"] == "terminated" for row in rows)

    await events.until(is_broken)
    machines = {row["name"]: row for row in (await ask("state"))["machines"]}
    assert machines["lab-0"]["fleet"] == "lab"
    assert machines["lab-1"]["host"] == "ann@127.0.0.2:1"
    assert await ask("fleets/lab/examine", body={}) is None
    status, _ = await refused(ask("fleets/other/examine", body={}))
    assert status == 404
    await ask("fleets/lab", method="DELETE", params={"instance": "1"})
    staying = [one for one in client.fleet("lab").instances if one.delete_requested_at is None]
    assert [one.name for one in staying] == ["lab-0"]
    client.delete_fleet("lab", force=True)
    await events.until(is_gone)
