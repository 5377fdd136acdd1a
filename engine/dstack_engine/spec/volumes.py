"""Volumes: disks that outlive a run, and where a run mounts them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from dstack_engine.spec.profiles import BackendName
from dstack_engine.spec.resources import Memory
from dstack_engine.spec.scalars import Boolean, SpecModel, Text, shown, wrong


class Mount(SpecModel):
    """A volume as `name:/path`, a folder of the machine as `/folder:/path`, or the keys below."""

    name: Text | None = Field(default=None, description="Name of the volume.")
    instance_path: Text | None = Field(
        default=None, description="Folder of the machine to mount instead."
    )
    path: Text = Field(description="Where it is in the container.")
    optional: Boolean = Field(
        default=False, description="Whether a folder that cannot be mounted is passed over."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if isinstance(value, str):
            source, _, path = value.partition(":")
            if not source or not path or ":" in path:
                raise wrong(f"{shown(value)} is not a mount", "write it as `name:/path`")
            return {"instance_path" if source.startswith("/") else "name": source, "path": path}
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Mount:
        if (self.name is None) == (self.instance_path is None):
            raise wrong(
                "needs either `name` (of a volume) or `instance_path` (a folder of the machine)"
            )
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        plain = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string"}, plain]}


class VolumeConfiguration(SpecModel):
    """A disk that outlives runs."""

    type: Literal["volume"] = Field(description="`volume`.")
    name: Text | None = Field(default=None, description="Name of the volume.")
    backend: BackendName = Field(description="Backend where the volume is.")
    region: Text = Field(description="Region where the volume is.")
    size: Memory | None = Field(
        default=None, description="Size of a new volume, in GB, as in `100GB`."
    )
    volume_id: Text | None = Field(
        default=None, description="Id of a disk that is there already, instead of `size`."
    )
