"""The client's half of fleets: what `%dstack fleet` and the sidebar ask of the engine.

`client.Client` is one; it is not made by itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pydantic import TypeAdapter

from dstack_engine.connection import Connection
from dstack_engine.errors import NotFound
from dstack_engine.home import Home
from dstack_engine.records.fleets import FleetView
from dstack_engine.spec.fleets import FleetConfiguration

#: What may stand in a path; the engine knows which names there are.
NAME_LIKE = re.compile(r"[\w-]{1,64}")

_FLEET: TypeAdapter[FleetView] = TypeAdapter(FleetView)
_FLEETS: TypeAdapter[list[FleetView]] = TypeAdapter(list[FleetView])

#: Seconds for an answer about a machine that is asked before: it may be slow to close.
_MACHINE_TIMEOUT = 30


class FleetClient:
    """Asks the home's engine about fleets."""

    def __init__(self, home: Home) -> None:
        """Make a client; nothing is asked of the engine yet."""
        self.home = home
        self._engine = Connection(home)

    def apply_fleet(self, configuration: FleetConfiguration) -> FleetView:
        """Make the fleet, or have the one of its name be as *configuration* says.

        Returns before its machines are looked into. Every `identity_file` must be absolute. Raises
        `Refused`, `ArgumentError` (its name), `Conflict` (a machine is another fleet's, or one
        that is to leave is in use).
        """
        body = {"configuration": configuration.model_dump(mode="json", exclude_unset=True)}
        return self._engine.ask(_FLEET, "POST", "/v1/fleets", json=body)

    def fleets(self) -> list[FleetView]:
        """Return the fleets that are not gone, by name."""
        return self._engine.ask(_FLEETS, "GET", "/v1/fleets")

    def fleet(self, name: str) -> FleetView:
        """Return the fleet of that name; raise `NotFound`."""
        return self._engine.ask(_FLEET, "GET", _fleet_path(name))

    def delete_fleet(
        self, name: str, instances: Collection[int] = (), *, force: bool = False
    ) -> FleetView:
        """Let the fleet go, or its machines of these numbers; returns before they are gone.

        With *force* also machines in use, and those that never answer again. Raises `NotFound`,
        `Conflict` (in use).
        """
        params: dict[str, Any] = {"force": force}
        if instances:
            params["instances"] = ",".join(map(str, instances))
        return self._engine.ask(_FLEET, "DELETE", _fleet_path(name), params=params)

    def examine_fleet(self, name: str) -> FleetView:
        """Have every machine of the fleet looked into now; returns before they are."""
        return self._engine.ask(_FLEET, "POST", _fleet_path(name, "examine"))

    def trust(self, name: str, number: int) -> FleetView:
        """Trust the host key that this machine of the fleet shows next; raise `NotFound`."""
        path = _fleet_path(name, f"instances/{int(number)}/trust")
        return self._engine.ask(_FLEET, "POST", path, timeout=_MACHINE_TIMEOUT)


def _fleet_path(name: str, verb: str | None = None) -> str:
    if not name or not NAME_LIKE.fullmatch(name):
        raise NotFound(f"{name!r} is not a fleet's name.")
    return f"/v1/fleets/{name}" + (f"/{verb}" if verb else "")
