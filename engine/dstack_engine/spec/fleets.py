"""Fleets: named sets of machines, rented or reached by SSH.

What names a machine, a user or a key becomes a word of ssh's own configuration, so it is held to
what can stand there as one word.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

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
from dstack_engine.spec.scalars import (
    Mistake,
    SpecModel,
    Text,
    raise_all,
    read_text,
    read_whole,
    shown,
    wrong,
)

_LONGEST_WORD: Final = 255
_LONGEST_PATH: Final = 4096
#: What ends, quotes or widens a word of ssh's configuration.
_NO_WORD: Final = re.compile(r"""[\s"'\\#%$`\x00-\x1f\x7f]""")
_NO_PATH: Final = re.compile(r"""["\\%$`\x00-\x1f\x7f]""")


def _read_word(value: object) -> str:
    text = read_text(value)
    if not text or len(text) > _LONGEST_WORD or text.startswith("-"):
        raise wrong(f"{shown(text)} cannot be a name that ssh takes")
    if found := _NO_WORD.search(text):
        raise wrong(f"cannot have {found[0]!r} in it")
    return text


def _read_hostname(value: object) -> str:
    # A zone follows the % of an IPv6 address: fe80::1%eth0.
    name, percent, zone = read_text(value).partition("%")
    text = _read_word(name) + (f"%{_read_word(zone)}" if percent else "")
    user, at, host = text.partition("@")
    if at:
        raise wrong(f"{shown(text)} is more than a name", f"write `hostname: {host}, user: {user}`")
    if "/" in text:
        raise wrong(f"{shown(text)} is not the name or address of a machine")
    return text


def _read_key_path(value: object) -> str:
    text = read_text(value)
    if not text.strip() or len(text) > _LONGEST_PATH:
        raise wrong(f"{shown(text)} is not the path of a key")
    if found := _NO_PATH.search(text):
        raise wrong(f"cannot have {found[0]!r} in it: ssh would not find the key")
    return text


_TEXT: Final = WithJsonSchema({"type": ["string", "number"]}, mode="validation")
#: A name or address of a machine, a user's name, a path: each one word for ssh.
Hostname = Annotated[str, PlainValidator(_read_hostname), _TEXT]
Word = Annotated[str, PlainValidator(_read_word), _TEXT]
KeyPath = Annotated[str, PlainValidator(_read_key_path), _TEXT]


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


#: Where sshd listens unless told otherwise.
SSH_PORT: Final = 22

#: The most machines of one fleet.
MOST_HOSTS: Final = 1000

Blocks = Annotated[
    int | Literal["auto"],
    PlainValidator(_read_blocks),
    WithJsonSchema({"type": ["integer", "string"]}, mode="validation"),
]


class ProxyJump(SpecModel):
    """A machine through which others are reached."""

    hostname: Hostname = Field(description="Name or address of the machine.")
    port: Port | None = Field(default=None, description="SSH port; 22 if left out.")
    user: Word = Field(description="User to log in as.")
    identity_file: KeyPath = Field(description="Private key to log in with.")


class SshHost(SpecModel):
    """A machine reached by SSH: its name alone, or the keys below."""

    hostname: Hostname = Field(description="Name or address of the machine.")
    port: Port | None = Field(default=None, description="SSH port, where it differs.")
    user: Word | None = Field(default=None, description="User to log in as, where it differs.")
    identity_file: KeyPath | None = Field(
        default=None, description="Private key, where it differs."
    )
    proxy_jump: ProxyJump | None = Field(
        default=None, description="Machine through which this one is reached."
    )
    internal_ip: Hostname | None = Field(
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

    user: Word | None = Field(default=None, description="User to log in as.")
    port: Port | None = Field(default=None, description="SSH port; 22 if left out.")
    identity_file: KeyPath | None = Field(default=None, description="Private key to log in with.")
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

    @field_validator("hosts", mode="after")
    @classmethod
    def _some(cls, hosts: tuple[SshHost, ...]) -> tuple[SshHost, ...]:
        if not hosts:
            raise wrong("names no machine", "write at least one: `hosts: [10.0.0.5]`")
        if len(hosts) > MOST_HOSTS:
            raise wrong(f"names {len(hosts)} machines; {MOST_HOSTS} are the most")
        return hosts

    @model_validator(mode="after")
    def _each_once(self) -> SshConfig:
        seen: set[tuple[str, int, str]] = set()
        doubles: list[Mistake] = []
        for index, host in enumerate(self.hosts):
            jump = host.proxy_jump or self.proxy_jump
            through = jump.hostname.lower() if jump is not None else ""
            machine = (host.hostname.lower(), host.port or self.port or SSH_PORT, through)
            if machine in seen:
                doubles.append((("hosts", index), f"{host.hostname} is there twice", None))
            seen.add(machine)
        raise_all(doubles)
        return self


H = TypeVar("H", SshHost, SshConfig)


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


def with_absolute_keys(configuration: FleetConfiguration, folder: Path) -> FleetConfiguration:
    """Return *configuration* with every `identity_file` absolute, read from *folder*.

    Called by whoever reads a fleet's cell or file, before it is sent: the engine has another
    folder. ``~`` is the user's home. Whether the keys are there is not looked at.
    """
    config = configuration.ssh_config
    if config is None:
        return configuration
    hosts = tuple(_absolute(host, folder) for host in config.hosts)
    there = _absolute(config, folder).model_copy(update={"hosts": hosts})
    return configuration.model_copy(update={"ssh_config": there})


def key_paths(configuration: FleetConfiguration) -> list[str]:
    """Return every `identity_file` that is written, jump hosts' too, each once."""
    config = configuration.ssh_config
    places: list[SshConfig | SshHost] = [] if config is None else [config, *config.hosts]
    written = [place.identity_file for place in places]
    written += [place.proxy_jump.identity_file for place in places if place.proxy_jump is not None]
    return list(dict.fromkeys(path for path in written if path is not None))


def _absolute(place: H, folder: Path) -> H:
    update: dict[str, object] = {}
    if place.identity_file is not None:
        update["identity_file"] = _absolute_path(place.identity_file, folder)
    jump = place.proxy_jump
    if jump is not None:
        path = _absolute_path(jump.identity_file, folder)
        update["proxy_jump"] = jump.model_copy(update={"identity_file": path})
    return place.model_copy(update=update)


def _absolute_path(written: str, folder: Path) -> str:
    return str(folder.absolute() / Path(written).expanduser())
