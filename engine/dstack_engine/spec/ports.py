"""Ports: which port of the container is reached at which port of this computer."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field, GetJsonSchemaHandler, PlainValidator, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from dstack_engine.errors import ArgumentError
from dstack_engine.spec.scalars import SpecModel, shown, wrong

LARGEST_PORT: Final = 65535
#: Where a service is reached when its port is given as one number.
SERVICE_LOCAL_PORT: Final = 80

_PAIR: Final = re.compile(r"(\d{1,6}|\*):(\d{1,6})")
_ARGUMENT: Final = re.compile(r"(?:(\d{1,6}|\*):)?(\d{1,6})")


def read_port(value: object) -> int:
    """Return *value* as a port, 1 to 65535."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}", value):
        value = int(value)
    if not isinstance(value, int):
        raise wrong(f"must be a port (1 to {LARGEST_PORT}), not {shown(value)}")
    if not 1 <= value <= LARGEST_PORT:
        raise wrong(f"a port is between 1 and {LARGEST_PORT}, not {shown(int(value))}")
    return int(value)


Port = Annotated[
    int,
    PlainValidator(read_port),
    WithJsonSchema(
        {"type": ["integer", "string"], "minimum": 1, "maximum": LARGEST_PORT}, mode="validation"
    ),
]


class PortMapping(SpecModel):
    """A port and where it is reached: `8080`, `"80:8080"`, `"*:8080"`, or the keys below."""

    local_port: Port | None = Field(
        default=None, description="Port on this computer; any free one if left out."
    )
    container_port: Port = Field(description="Port that the program listens on.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if isinstance(value, str) and (found := _PAIR.fullmatch(value.strip())):
            return _pair(found[1], found[2])
        if isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal()):
            port = read_port(value.strip() if isinstance(value, str) else value)
            return {"local_port": port, "container_port": port}
        if not isinstance(value, (dict, PortMapping)):
            raise wrong(
                f"{shown(value)} is not a port", 'write it as `8080`, `"80:8080"` or `"*:8080"`'
            )
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        plain = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": ["integer", "string", "boolean"]}, plain]}

    def __str__(self) -> str:
        return f"{'*' if self.local_port is None else self.local_port}:{self.container_port}"


class ServicePort(PortMapping):
    """The port a service listens on: `8000`, `"80:8000"`, or the keys below."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"local_port": SERVICE_LOCAL_PORT, "container_port": read_port(value)}
        if isinstance(value, str) and (
            found := re.fullmatch(r"(\d{1,6}):(\d{1,6})", value.strip())
        ):
            return _pair(found[1], found[2])
        if not isinstance(value, (dict, PortMapping)):
            raise wrong(
                f"{shown(value)} is not a service's port", 'write it as `8000` or `"80:8000"`'
            )
        return value


def _pair(local: str, container: str) -> dict[str, int | None]:
    return {
        "local_port": None if local == "*" else read_port(local),
        "container_port": read_port(container),
    }


def parse_port(text: str) -> PortMapping:
    """Return the port that a `--port` argument names: `8080`, `80:8080` or `*:8080`.

    Raises `ArgumentError` for anything else.
    """
    found = _ARGUMENT.fullmatch(text)
    container = int(found[2]) if found else 0
    local = None if not found or found[1] == "*" else int(found[1] or container)
    if not 1 <= container <= LARGEST_PORT or not (local is None or 1 <= local <= LARGEST_PORT):
        raise ArgumentError(
            f"{shown(text)} is not a port; write 8080, 80:8080 or *:8080, each 1 to {LARGEST_PORT}"
        )
    return PortMapping(local_port=local, container_port=container)
