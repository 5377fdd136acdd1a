"""Fleets: named sets of machines, rented or reached by SSH."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from dstack_engine.spec.environment import Environment
from dstack_engine.spec.ports import Port
from dstack_engine.spec.profiles import ProfileParameters
from dstack_engine.spec.resources import IntRange, Resources
from dstack_engine.spec.scalars import SpecModel, Text, read_text, read_whole, shown, wrong


def _read_blocks(value: object) -> int | str:
    return "auto" if value == "auto" else read_whole(value, 1)


def _read_network(value: object) -> str:
    text = read_text(value)
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        hint = "write it as `10.0.0.0/24`"
        raise wrong(f"{shown(text)} is not a network", hint) from None
    if not network.is_private:
        raise wrong(f"{text} is a public network; a private one is needed")
    return text


Blocks = Annotated[
    int | Literal["auto"],
    PlainValidator(_read_blocks),
    WithJsonSchema({"type": ["integer", "string"]}, mode="validation"),
]


class ProxyJump(SpecModel):
    """A machine through which others are reached."""

    hostname: Text = Field(description="Name or address of the machine.")
    port: Port | None = Field(default=None, description="SSH port; 22 if left out.")
    user: Text = Field(description="User to log in as.")
    identity_file: Text = Field(description="Private key to log in with.")


class SshHost(SpecModel):
    """A machine reached by SSH: its name alone, or the keys below."""

    hostname: Text = Field(description="Name or address of the machine.")
    port: Port | None = Field(default=None, description="SSH port, where it differs.")
    user: Text | None = Field(default=None, description="User to log in as, where it differs.")
    identity_file: Text | None = Field(default=None, description="Private key, where it differs.")
    proxy_jump: ProxyJump | None = Field(
        default=None, description="Machine through which this one is reached."
    )
    internal_ip: Text | None = Field(
        default=None, description="Address by which the machines reach each other."
    )
    blocks: Blocks | None = Field(
        default=None,
        description="Into how many parts the machine is split for several jobs, or auto.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if value is None or isinstance(value, (list, tuple, bool)):
            raise wrong(f"must be a machine's name or its keys, not {shown(value)}")
        return {"hostname": value} if isinstance(value, (str, int, float)) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        plain = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string"}, plain]}


class SshConfig(SpecModel):
    """The machines of a fleet that are reached by SSH."""

    user: Text | None = Field(default=None, description="User to log in as.")
    port: Port | None = Field(default=None, description="SSH port; 22 if left out.")
    identity_file: Text | None = Field(default=None, description="Private key to log in with.")
    proxy_jump: ProxyJump | None = Field(
        default=None, description="Machine through which the others are reached."
    )
    hosts: tuple[SshHost, ...] = Field(description="The machines.")
    network: (
        Annotated[
            str,
            PlainValidator(_read_network),
            WithJsonSchema({"type": "string"}, mode="validation"),
        ]
        | None
    ) = Field(
        default=None, description="Private network that the machines share, as in `10.0.0.0/24`."
    )


class FleetConfiguration(ProfileParameters):
    """A named set of machines."""

    type: Literal["fleet"] = Field(description="`fleet`.")
    name: Text | None = Field(default=None, description="Name of the fleet.")
    env: Environment = Field(default={}, description="Environment variables of jobs on the fleet.")
    ssh_config: SshConfig | None = Field(default=None, description="Machines reached by SSH.")
    nodes: IntRange | None = Field(default=None, description="How many machines to rent.")
    placement: Literal["any", "cluster"] | None = Field(
        default=None, description="Anywhere, or close together in one network."
    )
    resources: Resources = Field(default=Resources(), description="What each machine must have.")
    blocks: Blocks | None = Field(
        default=None,
        description="Into how many parts a machine is split for several jobs, or auto.",
    )

    @field_validator("nodes", mode="before")
    @classmethod
    def _some(cls, value: object) -> object:
        if isinstance(value, bool):
            raise wrong(f"must be a number or a range such as `0..2`, not {shown(value)}")
        return value
