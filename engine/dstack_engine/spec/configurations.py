"""What an author writes: task, service, dev-environment; and the union of all six types.

`parsing` makes these from YAML; the engine keeps them with the run. What the author wrote can be
told from what was left out: `configuration.wrote("image")`, `….resources.wrote("disk")`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from dstack_engine.spec.environment import Environment
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.gateways import GatewayConfiguration
from dstack_engine.spec.ports import PortMapping, ServicePort
from dstack_engine.spec.profiles import ProfileParameters, SpotPolicy
from dstack_engine.spec.resources import Resources
from dstack_engine.spec.scalars import (
    Boolean,
    DurationOrOff,
    Mistake,
    SpecModel,
    Text,
    WholeBetween,
    raise_all,
    shown,
    wrong,
)
from dstack_engine.spec.services import Probe, RateLimit, Replicas, Scaling, ServedModel, read_nodes
from dstack_engine.spec.volumes import Mount, VolumeConfiguration

PythonVersion = Literal["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"]
PYTHON_VERSIONS: Final[tuple[PythonVersion, ...]] = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


class RegistryAuth(SpecModel):
    """Who pulls the image."""

    username: Text = Field(description="User name; `${{ env.NAME }}` is filled in.")
    password: Text = Field(
        description="Password or token; `${{ env.NAME }}` is filled in.", repr=False
    )


def _read_python(value: object) -> str:
    # YAML has no way to tell 3.10 from 3.1, so the number 3.1 means 3.10.
    text = "3.10" if isinstance(value, float) and value == 3.1 else str(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, (str, int, float))
        or text not in PYTHON_VERSIONS
    ):
        versions = f"{', '.join(PYTHON_VERSIONS[:-1])} or {PYTHON_VERSIONS[-1]}"
        raise wrong(f"must be one of {versions}, not {shown(value)}")
    return text


class RunConfiguration(ProfileParameters):
    """What tasks, services and dev environments have in common."""

    type: Literal["task", "service", "dev-environment"] = Field(
        description="What kind of run it is."
    )
    name: Text | None = Field(
        default=None, description="Name of the run; a random one if left out."
    )
    image: Text | None = Field(
        default=None, description="Docker image to run; a default one if left out."
    )
    privileged: Boolean = Field(default=False, description="Whether the container runs privileged.")
    entrypoint: Text | None = Field(
        default=None, description="Program that starts the container, in place of the image's own."
    )
    user: Text | None = Field(default=None, description="User in the container, as in `1000:1000`.")
    shell: Text | None = Field(default=None, description="Shell that runs the commands.")
    working_dir: Text | None = Field(
        default=None,
        description="Folder where commands run, relative to the project; its root if left out.",
    )
    home_dir: Text = Field(
        default="/root", description="Home folder in the container; `/root` if left out."
    )
    registry_auth: RegistryAuth | None = Field(
        default=None, description="User name and password for a private image."
    )
    python: (
        Annotated[
            PythonVersion,
            PlainValidator(_read_python),
            WithJsonSchema(
                {"enum": [*PYTHON_VERSIONS, 3.8, 3.9, 3.1, 3.11, 3.12, 3.13]}, mode="validation"
            ),
        ]
        | None
    ) = Field(default=None, description="Version of Python, where no image is given.")
    nvcc: Boolean | None = Field(
        default=None, description="Whether the default image has the CUDA compiler."
    )
    env: Environment = Field(
        default={},
        description="Environment variables; a name alone in a list is taken from your environment.",
        examples=[["TOKEN", "EPOCHS=10"], {"EPOCHS": "10"}],
        repr=False,
    )
    setup: tuple[Text, ...] = Field(default=(), description="Commands to run before the others.")
    resources: Resources = Field(default=Resources(), description="What the machine must have.")
    volumes: tuple[Mount, ...] = Field(default=(), description="Volumes to mount.")
    priority: Annotated[int, WholeBetween(0, 100)] | None = Field(
        default=None, description="Which runs go first when they wait: 0 (last) to 100."
    )

    @classmethod
    def rules(cls, written: Mapping[str, Any]) -> Iterator[Mistake]:
        """Yield what is wrong between the keys of *written*, a configuration as YAML gave it."""
        if written.get("image") is not None and written.get("python") is not None:
            yield (
                ("python",),
                "`image` and `python` exclude each other",
                "leave one of them out; an image brings its own Python",
            )

    @model_validator(mode="wrap")
    @classmethod
    def _keep_rules(cls, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        configuration = handler(value)
        if isinstance(value, Mapping):
            raise_all(cls.rules(value), kind="rule")
        return configuration


class TaskConfiguration(RunConfiguration):
    """Commands that run once, on one machine or several."""

    type: Literal["task"] = Field(description="`task`.")
    commands: tuple[Text, ...] = Field(
        default=(),
        description="Commands to run, in one shell; `${{ run.args }}` is filled in.",
        examples=[["pip install -r requirements.txt", "python train.py"]],
    )
    ports: tuple[PortMapping, ...] = Field(
        default=(),
        description='Ports to reach at localhost while it runs: `8080`, `"80:8080"`, `"*:8080"`.',
        examples=[[8080]],
    )
    nodes: Annotated[
        int,
        PlainValidator(read_nodes),
        WithJsonSchema({"type": ["integer", "string", "null"], "minimum": 1}, mode="validation"),
    ] = Field(default=1, description="On how many machines the task runs at once.")

    @classmethod
    def rules(cls, written: Mapping[str, Any]) -> Iterator[Mistake]:
        """Yield what is wrong between the keys of a task."""
        yield from super().rules(written)
        yield from _something_to_run(written)


class ServiceConfiguration(RunConfiguration):
    """A program that answers requests, in one replica or several."""

    type: Literal["service"] = Field(description="`service`.")
    commands: tuple[Text, ...] = Field(
        default=(), description="Commands to run, in one shell; `${{ run.args }}` is filled in."
    )
    port: ServicePort = Field(
        description='Port that the program listens on: `8000` or `"80:8000"`.', examples=[8000]
    )
    model: ServedModel | None = Field(
        default=None,
        description="The language model that the service serves: its name, or its keys.",
    )
    https: Boolean = Field(default=True, description="Whether the gateway serves it by HTTPS.")
    auth: Boolean = Field(default=True, description="Whether requests need a token.")
    gateway: (
        Annotated[
            bool | str,
            PlainValidator(
                lambda value: value if isinstance(value, bool) else _read_gateway(value)
            ),
            WithJsonSchema({"type": ["boolean", "string"]}, mode="validation"),
        ]
        | None
    ) = Field(
        default=None,
        description="Gateway to use, by name; true for the default one, false for none.",
    )
    replicas: Replicas = Field(
        default=Replicas(min=1, max=1),
        description="How many replicas, or a range of them; 1 if left out.",
    )
    scaling: Scaling | None = Field(
        default=None, description="How the number of replicas follows the load."
    )
    probes: tuple[Probe, ...] = Field(
        default=(), description="Requests that tell whether a replica is ready."
    )
    rate_limits: tuple[RateLimit, ...] = Field(
        default=(), description="How many requests the gateway lets through."
    )

    @classmethod
    def rules(cls, written: Mapping[str, Any]) -> Iterator[Mistake]:
        """Yield what is wrong between the keys of a service."""
        yield from super().rules(written)
        yield from _something_to_run(written)
        try:
            replicas = Replicas.model_validate(written.get("replicas"))
        except ValidationError:
            return
        if replicas.scales and written.get("scaling") is None:
            hint = "add `scaling`, as in `scaling: {metric: rps, target: 10}`"
            yield ("replicas",), f"the range {replicas} needs `scaling`", hint
        if not replicas.scales and written.get("scaling") is not None:
            yield ("scaling",), "`scaling` needs `replicas` to be a range", "as in `replicas: 1..4`"


def _read_gateway(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise wrong(f"must be a gateway's name, true or false, not {shown(value)}")
    return value


def _something_to_run(written: Mapping[str, Any]) -> Iterator[Mistake]:
    if written.get("image") is None and written.get("commands", []) in ([], ()):
        yield (
            (),
            "either `commands` or `image` must be set",
            "say what to run, as in `commands: [nvidia-smi]`",
        )


class DevEnvironmentConfiguration(RunConfiguration):
    """A machine to work on from an editor."""

    type: Literal["dev-environment"] = Field(description="`dev-environment`.")
    ide: Literal["vscode", "cursor", "windsurf", "zed"] | None = Field(
        default=None, description="Editor that will connect: vscode, cursor, windsurf or zed."
    )
    version: Text | None = Field(default=None, description="Version of the editor.")
    init: tuple[Text, ...] = Field(default=(), description="Commands to run when it has started.")
    ports: tuple[PortMapping, ...] = Field(
        default=(), description="Ports to reach at localhost while it runs."
    )
    inactivity_duration: DurationOrOff | None = Field(
        default=None,
        description="It is stopped when nobody was connected for this long; `off` if left out.",
    )

    @field_validator("inactivity_duration", mode="before")
    @classmethod
    def _not_true(cls, value: object) -> object:
        if value is True:
            raise wrong("must be a duration such as `2h`, or `off`")
        return value


#: A configuration that becomes a run.
Runnable: TypeAlias = Annotated[
    TaskConfiguration | ServiceConfiguration | DevEnvironmentConfiguration,
    Field(discriminator="type"),
]
Configuration: TypeAlias = (
    TaskConfiguration
    | ServiceConfiguration
    | DevEnvironmentConfiguration
    | FleetConfiguration
    | GatewayConfiguration
    | VolumeConfiguration
)

CONFIGURATION_TYPES: Final[dict[str, type[Configuration]]] = {
    "task": TaskConfiguration,
    "service": ServiceConfiguration,
    "dev-environment": DevEnvironmentConfiguration,
    "fleet": FleetConfiguration,
    "gateway": GatewayConfiguration,
    "volume": VolumeConfiguration,
}


def effective_spot_policy(configuration: ProfileParameters) -> SpotPolicy:
    """Return which machines may be rented; unless it says so, no dev environment is on spot."""
    if configuration.spot_policy is not None:
        return configuration.spot_policy
    return "on-demand" if isinstance(configuration, DevEnvironmentConfiguration) else "auto"
