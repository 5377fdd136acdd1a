"""Profiles: where a run may be placed, at what price, for how long; named for many runs.

Run configurations take the same keys inline; `apply_profile` fills in what one leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from dstack_engine.errors import NotFound
from dstack_engine.spec.scalars import (
    OFF,
    Boolean,
    Duration,
    IdleDuration,
    LongestRun,
    Off,
    Positive,
    SpecModel,
    Text,
    WholeBetween,
    read_boolean,
    wrong,
)

BackendName = Literal[
    "aws",
    "azure",
    "cudo",
    "datacrunch",
    "dstack",
    "gcp",
    "kubernetes",
    "lambda",
    "local",
    "nebius",
    "oci",
    "remote",
    "runpod",
    "ssh",
    "tensordock",
    "vastai",
]
SpotPolicy = Literal["spot", "on-demand", "auto"]
CreationPolicy = Literal["reuse", "reuse-or-create"]
TerminationPolicy = Literal["dont-destroy", "destroy-after-idle"]
RetryEvent = Literal["no-capacity", "interruption", "error"]
StartupOrder = Literal["any", "master-first", "workers-first"]
StopCriteria = Literal["all-done", "master-done"]

ALL_RETRY_EVENTS: Final[tuple[RetryEvent, ...]] = ("no-capacity", "interruption", "error")
#: How long a run is tried again when nothing else is said, in seconds.
RETRY_DURATION: Final = 3600
#: How long a machine is kept after its run when nothing else is said, in seconds.
IDLE_DURATION: Final = 300
#: How long a job has to end by itself when it is stopped, in seconds.
STOP_DURATION: Final = 300

_IDLE_KEYS: Final = frozenset({"idle_duration", "termination_idle_time", "termination_policy"})
_RETRY_KEYS: Final = frozenset({"retry", "retry_policy"})


class Retry(SpecModel):
    """When a run is tried again, and for how long."""

    on_events: tuple[RetryEvent, ...] = Field(
        default=ALL_RETRY_EVENTS,
        description="What is tried again: no-capacity, interruption, error; all if left out.",
    )
    duration: Duration = Field(
        default=RETRY_DURATION, description="How long to go on trying; `1h` if left out."
    )

    @field_validator("on_events", mode="after")
    @classmethod
    def _some(cls, events: tuple[RetryEvent, ...]) -> tuple[RetryEvent, ...]:
        if not events:
            raise wrong("names no event", "leave it out for all events, or write `retry: false`")
        return events

    @field_validator("on_events", "duration", mode="before")
    @classmethod
    def _default(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].default if value is None else value

    @property
    def ever(self) -> bool:
        """Return whether anything is tried again at all."""
        return bool(self.on_events)


#: What `retry: false` means.
NEVER: Final = Retry.model_construct({"on_events", "duration"}, on_events=(), duration=0)


def _read_retry(value: object) -> object:
    if isinstance(value, (dict, Retry)):
        return value
    return (
        Retry(on_events=ALL_RETRY_EVENTS, duration=RETRY_DURATION) if read_boolean(value) else NEVER
    )


def _write_retry(retry: Retry | None) -> Any:
    if retry is None:
        return None
    return retry.model_dump(mode="json", exclude_unset=True) if retry.ever else False


class RetryPolicy(SpecModel):
    """The older form of `retry`: a duration implies that there is a retry."""

    retry: Boolean = Field(default=False, description="Whether to try again.")
    duration: Duration | None = Field(default=None, description="How long to go on trying.")

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("duration") is not None:
            return {**value, "retry": True}
        return value


class UtilizationPolicy(SpecModel):
    """Stop a run whose GPUs have nothing to do."""

    min_gpu_utilization: Annotated[int, WholeBetween(0, 100)] = Field(
        description="Least use of every GPU, in percent."
    )
    time_window: Duration = Field(description="For how long the use must be lower; at least `5m`.")

    @field_validator("time_window", mode="after")
    @classmethod
    def _long_enough(cls, seconds: int) -> int:
        if seconds < 300:
            raise wrong(f"must be 5m or more, not {seconds}s")
        return seconds


class ProfileParameters(SpecModel):
    """Where and how a run may be placed; the same keys in profiles and in runs."""

    backends: tuple[BackendName, ...] | None = Field(
        default=None, description="Backends to rent from; all configured ones if left out."
    )
    regions: tuple[Text, ...] | None = Field(
        default=None, description="Regions to rent in; all if left out."
    )
    availability_zones: tuple[Text, ...] | None = Field(
        default=None, description="Availability zones to rent in; all if left out."
    )
    instance_types: tuple[Text, ...] | None = Field(
        default=None, description="Machine types to rent; all if left out."
    )
    spot_policy: SpotPolicy | None = Field(
        default=None,
        description="Rent spot machines, on-demand ones, or either; "
        "`auto` for tasks and services and `on-demand` for dev environments if left out.",
    )
    retry: (
        Annotated[
            Retry,
            BeforeValidator(_read_retry, json_schema_input_type=bool | int | str | Retry),
            PlainSerializer(_write_retry),
        ]
        | None
    ) = Field(default=None, description="Whether to try again, on which events and for how long.")
    retry_policy: RetryPolicy | None = Field(
        default=None, description="The older form of `retry`, used where `retry` is left out."
    )
    max_duration: LongestRun | None = Field(
        default=None, description="The run is stopped after this long; `off` if left out."
    )
    stop_duration: IdleDuration | None = Field(
        default=None, description="How long a job may take to end when stopped; `5m` if left out."
    )
    max_price: Positive | None = Field(
        default=None, description="The most to pay for a machine, in dollars an hour."
    )
    max_cost: Positive | None = Field(
        default=None, description="The run is stopped once it has cost this much, in dollars."
    )
    creation_policy: CreationPolicy | None = Field(
        default=None,
        description="Use only machines that are there, or rent new ones as well (the default).",
    )
    idle_duration: IdleDuration | None = Field(
        default=None, description="How long a machine is kept after its run; `5m` if left out."
    )
    termination_policy: TerminationPolicy | None = Field(
        default=None, description="Whether an idle machine is given back (the default) or kept."
    )
    termination_idle_time: IdleDuration | None = Field(
        default=None, description="The older name of `idle_duration`."
    )
    pool_name: Text | None = Field(default=None, description="Pool of machines to use and add to.")
    instance_name: Text | None = Field(
        default=None, description="The one machine to use, by its name."
    )
    fleets: tuple[Text, ...] | None = Field(
        default=None, description="Fleets whose machines may be used; all if left out."
    )
    utilization_policy: UtilizationPolicy | None = Field(
        default=None, description="Stop the run when its GPUs have nothing to do."
    )
    startup_order: StartupOrder | None = Field(
        default=None, description="Which nodes start first: any, master-first, workers-first."
    )
    stop_criteria: StopCriteria | None = Field(
        default=None, description="The run is over when all nodes are done, or when the master is."
    )
    tags: dict[Text, Text] | None = Field(
        default=None, description="Words to mark the rented machines with."
    )


class Profile(ProfileParameters):
    """A named set of parameters."""

    name: Text = Field(description="Name of the profile, for `--profile`.")
    default: Boolean = Field(default=False, description="Whether it is used where none is named.")


class Profiles(SpecModel):
    """What `profiles.yml` holds."""

    profiles: tuple[Profile, ...] = Field(description="The profiles.")

    def get(self, name: str | None) -> Profile | None:
        """Return the profile called *name*, or the default one where no name is given.

        Raises `NotFound` for a name that is not there.
        """
        if name is None:
            return next((profile for profile in self.profiles if profile.default), None)
        for profile in self.profiles:
            if profile.name == name:
                return profile
        known = ", ".join(profile.name for profile in self.profiles)
        raise NotFound(
            f"no such profile: {name}; " + (f"there are {known}" if known else "there are none")
        )

    def with_more(self, others: Iterable[Profile]) -> Profiles:
        """Return these profiles and those of *others* whose names are not taken."""
        taken = {profile.name for profile in self.profiles}
        has_default = any(profile.default for profile in self.profiles)
        more = [
            profile.model_copy(update={"default": profile.default and not has_default})
            for profile in others
            if profile.name not in taken
        ]
        return Profiles(profiles=(*self.profiles, *more))


P = TypeVar("P", bound=ProfileParameters)


def apply_profile(configuration: P, profile: Profile | None) -> P:
    """Return *configuration* with what *profile* adds; what the configuration says itself wins."""
    if profile is None:
        return configuration
    said = {
        key for key in configuration.model_fields_set if getattr(configuration, key) is not None
    }
    for family in (_IDLE_KEYS, _RETRY_KEYS):
        if said & family:
            said |= family
    added = {
        key: getattr(profile, key)
        for key in ProfileParameters.model_fields
        if key in profile.model_fields_set and key not in said and getattr(profile, key) is not None
    }
    return configuration.model_copy(update=added)


Seconds: TypeAlias = int | None


def effective_retry(parameters: ProfileParameters) -> Retry | None:
    """Return when to try again, or `None` for never; `retry` goes before `retry_policy`."""
    if parameters.retry is not None:
        return parameters.retry if parameters.retry.ever else None
    policy = parameters.retry_policy
    if policy is None or not policy.retry:
        return None
    return Retry(on_events=ALL_RETRY_EVENTS, duration=policy.duration or RETRY_DURATION)


def effective_max_duration(parameters: ProfileParameters) -> Seconds:
    """Return after how many seconds the run is stopped, or `None` for never."""
    return _seconds(parameters.max_duration, None)


def effective_idle_duration(parameters: ProfileParameters, default: int = IDLE_DURATION) -> Seconds:
    """Return for how many seconds an idle machine is kept, or `None` for ever."""
    if parameters.idle_duration is not None:
        return _seconds(parameters.idle_duration, default)
    if parameters.termination_policy == "dont-destroy":
        return None
    return _seconds(parameters.termination_idle_time, default)


def effective_stop_duration(parameters: ProfileParameters) -> Seconds:
    """Return how many seconds a stopped job has to end by itself, or `None` for no limit."""
    return _seconds(parameters.stop_duration, STOP_DURATION)


def _seconds(duration: int | Off | None, default: Seconds) -> Seconds:
    if duration is None:
        return default
    return None if duration == OFF else int(duration)
