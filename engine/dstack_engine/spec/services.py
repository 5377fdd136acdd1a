"""What only a service says: replicas and scaling, the language model served, probes, limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from dstack_engine.spec.resources import split_range
from dstack_engine.spec.scalars import (
    Boolean,
    Duration,
    Positive,
    SpecModel,
    Text,
    WholeBetween,
    read_number,
    read_whole,
    wrong,
)

#: Windows, in seconds, over which the load may be averaged.
WINDOWS = (30, 60, 300)
#: The least rate of a limit: one request a minute.
LEAST_RATE = 1 / 60


class Replicas(SpecModel):
    """How many replicas: `2`, `0..4` (with `scaling`), `..4`, or the keys below."""

    min: Annotated[int, WholeBetween(0)] = Field(
        default=0, description="The fewest; 0 if left out."
    )
    max: Annotated[int, WholeBetween(0)] = Field(description="The most.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if value is None:
            return {"min": 1, "max": 1}
        if isinstance(value, Replicas):
            return value
        parts = split_range(value, "0..4")
        if not isinstance(parts, dict):
            return parts
        if isinstance(value, (str, int, float)) and parts["max"] is None:
            raise wrong(
                "the range of replicas has no end", "write the most there may be, as in `1..4`"
            )
        if parts.get("max", 0) is None:
            raise wrong("`max` is required: the most replicas there may be")
        return {**parts, "min": 0 if parts.get("min") is None else parts["min"]}

    @model_validator(mode="after")
    def _in_order(self) -> Replicas:
        if self.min > self.max:
            raise wrong(f"the range {self} is the wrong way round", f"`{self.max}..{self.min}`?")
        return self

    @property
    def scales(self) -> bool:
        """Return whether the number may change."""
        return self.min != self.max

    def __str__(self) -> str:
        return f"{self.min}..{self.max}" if self.scales else str(self.min)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        plain = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": ["integer", "string", "null"]}, plain]}


class Scaling(SpecModel):
    """How the number of replicas follows the load."""

    metric: Literal["rps", "concurrency"] = Field(
        description="What is measured: requests a second, or requests under way, of each replica."
    )
    target: Positive = Field(description="What one replica should have of it.")
    scale_up_delay: Duration = Field(
        default=300, description="How long to wait before the next replica; `5m` if left out."
    )
    scale_down_delay: Duration = Field(
        default=600, description="How long to wait before one replica fewer; `10m` if left out."
    )
    window: Duration = Field(
        default=60, description="Time over which the load is averaged: 30s, 1m (the default) or 5m."
    )

    @field_validator("window", mode="after")
    @classmethod
    def _known_window(cls, seconds: int) -> int:
        if seconds not in WINDOWS:
            raise wrong(f"must be 30s, 1m or 5m, not {seconds}s")
        return seconds


class ServedModel(SpecModel):
    """The language model behind the service: its name alone, or the keys below."""

    type: Literal["chat"] = Field(default="chat", description="What the model does: chat.")
    name: Text = Field(description="Name under which requests ask for the model.")
    format: Literal["openai", "tgi"] = Field(
        description="The interface that the service itself speaks: openai or tgi."
    )
    prefix: Text = Field(
        default="/v1", description="Path of the OpenAI interface; `/v1` if left out (openai only)."
    )
    chat_template: Text | None = Field(
        default=None, description="Template that turns messages into a prompt (tgi only)."
    )
    eos_token: Text | None = Field(
        default=None, description="Token that ends an answer (tgi only)."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if isinstance(value, str):
            return {"type": "chat", "name": value, "format": "openai"}
        return value

    @model_validator(mode="after")
    def _own_keys(self) -> ServedModel:
        theirs = ("chat_template", "eos_token") if self.format == "openai" else ("prefix",)
        for key in theirs:
            if self.wrote(key):
                raise wrong(f"`{key}` has no meaning where the format is {self.format}")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        plain = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string"}, plain]}


class Header(SpecModel):
    """A header of a probe's request."""

    name: Text = Field(description="Name of the header.")
    value: Text = Field(description="Value of the header.")


class Probe(SpecModel):
    """A request that tells whether a replica is ready."""

    type: Literal["http"] = Field(default="http", description="Kind of the probe: http.")
    url: Text = Field(default="/", description="Path that is asked; `/` if left out.")
    method: Literal["get", "post", "put", "delete", "patch", "head"] = Field(
        default="get", description="Method of the request; `get` if left out."
    )
    headers: tuple[Header, ...] = Field(default=(), description="Headers of the request.")
    body: Text | None = Field(default=None, description="Body of the request.")
    timeout: Duration = Field(
        default=10, description="How long an answer may take; `10s` if left out."
    )
    interval: Duration = Field(default=15, description="Time between probes; `15s` if left out.")
    ready_after: Annotated[int, WholeBetween(1)] = Field(
        default=1, description="How many good answers in a row make a replica ready."
    )
    until_ready: Boolean = Field(
        default=False, description="Whether probing ends once the replica is ready."
    )


class HeaderKey(SpecModel):
    """Requests are counted by the value of a header."""

    type: Literal["header"] = Field(description="`header`.")
    header: Text = Field(description="Name of the header.")


class RateLimit(SpecModel):
    """How many requests are let through."""

    prefix: Text = Field(default="/", description="Paths that the limit is for; all if left out.")
    key: Literal["ip_address"] | HeaderKey = Field(
        default="ip_address", description="Who is limited: each address, or each value of a header."
    )
    rps: Positive = Field(description="Requests a second, at least one a minute.")
    burst: Annotated[int, WholeBetween(0)] = Field(
        default=0, description="How many requests may come at once beyond that."
    )

    @field_validator("rps", mode="before")
    @classmethod
    def _enough(cls, value: object) -> Any:
        if read_number(value) < LEAST_RATE:
            raise wrong("must be one a minute (1/60) or more")
        return value

    @field_validator("key", mode="before")
    @classmethod
    def _by_header(cls, value: object) -> Any:
        if isinstance(value, dict):
            return HeaderKey.model_validate(value)
        if value != "ip_address" and not isinstance(value, HeaderKey):
            raise wrong("must be ip_address, or `type: header` with the `header`")
        return value


def read_nodes(value: object) -> int:
    """Return how many nodes a task has; one where nothing is said."""
    return 1 if value is None else read_whole(value, 1)
