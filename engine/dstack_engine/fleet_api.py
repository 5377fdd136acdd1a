"""The endpoints of fleets, a part of the engine's HTTP API; added by `api`."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query, Response
from fastapi import Path as PathPart
from pydantic import BaseModel, ConfigDict, TypeAdapter

from dstack_engine.errors import ArgumentError
from dstack_engine.fleets import Fleets
from dstack_engine.records.fleets import FleetView
from dstack_engine.spec.fleets import MOST_HOSTS, FleetConfiguration

_FLEET: TypeAdapter[FleetView] = TypeAdapter(FleetView)
_FLEETS: TypeAdapter[list[FleetView]] = TypeAdapter(list[FleetView])


class FleetRequest(BaseModel):
    """What a fleet is to be."""

    model_config = ConfigDict(extra="forbid")
    configuration: FleetConfiguration


def add_fleets(app: FastAPI, fleets: Fleets) -> None:
    """Have *app* answer about *fleets*."""

    @app.post("/v1/fleets", response_model=FleetView)
    def apply(request: FleetRequest) -> Response:
        """Make a fleet, or change the one of that name."""
        return _one(fleets.apply(request.configuration))

    @app.get("/v1/fleets", response_model=list[FleetView])
    def list_fleets() -> Response:
        """The fleets that are not gone."""
        body = _FLEETS.dump_json(fleets.views(), exclude_unset=True)
        return Response(body, media_type="application/json")

    @app.get("/v1/fleets/{name}", response_model=FleetView)
    def read_fleet(name: str) -> Response:
        """A fleet with its machines."""
        return _one(fleets.view(name))

    @app.delete("/v1/fleets/{name}", response_model=FleetView)
    def delete_fleet(
        name: str,
        instances: Annotated[str, Query(max_length=5 * MOST_HOSTS)] = "",
        force: bool = False,
    ) -> Response:
        """Let a fleet go, or some of its machines; by force also what does not answer."""
        return _one(fleets.delete(name, _numbers(instances), force=force))

    @app.post("/v1/fleets/{name}/examine", response_model=FleetView)
    def examine(name: str) -> Response:
        """Look into the fleet's machines again now."""
        return _one(fleets.examine(name))

    @app.post("/v1/fleets/{name}/instances/{number}/trust", response_model=FleetView)
    def trust(name: str, number: Annotated[int, PathPart(ge=0)]) -> Response:
        """Forget a machine's pinned host key, so that the one it shows next is trusted."""
        return _one(fleets.trust(name, number))


def _one(view: FleetView) -> Response:
    return Response(_FLEET.dump_json(view, exclude_unset=True), media_type="application/json")


def _numbers(text: str) -> list[int]:
    """Return the numbers of machines in ``0,2``; raise `ArgumentError` for anything else."""
    words = [word.strip() for word in text.split(",")] if text else []
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise ArgumentError(f"{text[:80]!r} are not numbers of machines such as `0,2`.")
    return [int(word) for word in words]
