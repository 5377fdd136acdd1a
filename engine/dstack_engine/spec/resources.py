"""What a job asks of a machine: ranges of CPU, memory and disk, and GPUs by name, memory and count.

`decisions.placement` compares these with offers. Sizes are in GB; 1 TB is 1024 GB, 1 GB 1024 MB.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from dstack_engine.spec.scalars import SpecModel, WholeBetween, read_text, shown, wrong

GpuVendor = Literal["nvidia", "amd", "google"]

#: How a vendor may be written, in any case.
VENDORS: Final[dict[str, GpuVendor]] = {
    "nvidia": "nvidia",
    "amd": "amd",
    "google": "google",
    "tpu": "google",
}
_UNITS: Final = {"mb": 1 / 1024, "gb": 1.0, "tb": 1024.0}
_MEMORY_SCHEMA: Final[dict[str, Any]] = {
    "type": ["number", "string"],
    "examples": [16, "512MB", "16GB", "1TB"],
}


def read_memory(value: object) -> float:
    """Return *value* (`16`, `512MB`, `16 GB`, `1TB`) in GB; a bare number is in GB already."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise wrong(f"must be a size such as `16GB`, not {shown(value)}")
    text = str(value) if not isinstance(value, int) or abs(value) < 1e40 else "huge"
    text = "".join(text.split()).lower()
    unit = _UNITS.get(text[-2:])
    try:
        return float(text[:-2]) * unit if unit is not None else float(text)
    except ValueError:
        hint = "the units are MB, GB and TB, as in `16GB`"
        raise wrong(f"{shown(value)} is not a size", hint) from None


def _write_memory(size: float) -> float | str:
    return size if math.isfinite(size) else str(size)


Memory = Annotated[
    float,
    PlainValidator(read_memory),
    PlainSerializer(_write_memory, when_used="json"),
    WithJsonSchema(_MEMORY_SCHEMA, mode="validation"),
]
Count = Annotated[int, WholeBetween(0)]


def split_range(value: object, example: str) -> object:
    """Return *value* as a mapping of `min` and `max` where it is a number or a text like `2..4`."""
    if isinstance(value, str):
        text = "".join(value.split())
        if ".." not in text:
            return {"min": text, "max": text}
        first, _, last = text.partition("..")
        if not first and not last:
            raise wrong(f"the range {shown(value)} is empty", f"write it as `{example}`")
        if ".." in last:
            raise wrong(f"{shown(value)} is not a range", f"write it as `{example}`")
        return {"min": first or None, "max": last or None}
    if isinstance(value, (int, float)):
        return {"min": value, "max": value}
    if value is None or isinstance(value, (list, tuple)):
        raise wrong(f"must be a number or a range such as `{example}`, not {shown(value)}")
    return value


class _Range(SpecModel):
    """A least and a most, either of which may be open."""

    min: Any = None
    max: Any = None

    @model_validator(mode="after")
    def _in_order(self) -> _Range:
        if self.min is None and self.max is None:
            raise wrong("the range is empty: give `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise wrong(
                f"the range {self} is the wrong way round", f"`{self.max:g}..{self.min:g}`?"
            )
        return self

    def __contains__(self, value: float) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def __str__(self) -> str:
        if self.min == self.max:
            return f"{self.min:g}"
        low = "" if self.min is None else f"{self.min:g}"
        return f"{low}.." + ("" if self.max is None else f"{self.max:g}")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        plain = handler.resolve_ref_schema(handler(core_schema))
        short = {"type": ["number", "string"], "examples": ["2..4", "8..", "..16"]}
        return {"anyOf": [short, plain], "description": cls.__doc__ or ""}


class IntRange(_Range):
    """A whole number (exactly that many) or a range of them: `4`, `2..8`, `2..`, `..8`."""

    min: Count | None = Field(default=None, description="The least; open if left out.")
    max: Count | None = Field(default=None, description="The most; open if left out.")

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return split_range(value, "2..4")


class MemoryRange(_Range):
    """A size (exactly that much) or a range of them: `16GB`, `8GB..32GB`, `8GB..`, `..1TB`."""

    min: Memory | None = Field(default=None, description="The least, in GB; open if left out.")
    max: Memory | None = Field(default=None, description="The most, in GB; open if left out.")

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return split_range(value, "8GB..16GB")


class Disk(SpecModel):
    """How much disk: a size or a range of sizes."""

    size: MemoryRange = Field(description="Size of the disk, in GB.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return {"size": value} if isinstance(value, (str, int, float)) else value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        plain = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": ["number", "string"]}, plain]}


def _read_vendor(value: object) -> GpuVendor:
    if isinstance(value, str) and value.strip().lower() in VENDORS:
        return VENDORS[value.strip().lower()]
    raise wrong(f"must be nvidia, amd, google or tpu, not {shown(value)}")


def _read_names(value: object) -> tuple[str, ...]:
    entries = value if isinstance(value, (list, tuple)) else [value]
    names = [part.strip() for entry in entries for part in read_text(entry).split(",")]
    if not names or "" in names:
        raise wrong("a GPU's name cannot be empty")
    return tuple(name.removeprefix("tpu-") for name in names)


def _read_capability(value: object) -> tuple[int, int]:
    parts = value if isinstance(value, (list, tuple)) else None
    if isinstance(value, (str, float)):
        parts = str(value).split(".")
    numbers = [str(part) for part in parts or () if re.fullmatch(r"\d{1,4}", str(part))]
    if parts is None or len(numbers) != 2 or len(parts) != 2:
        raise wrong(f"{shown(value)} is not a compute capability", "write two numbers, as in `7.5`")
    return int(numbers[0]), int(numbers[1])


class Gpu(SpecModel):
    """GPUs: `A100`, `24GB`, `A100:80GB:2`, `nvidia:24GB..40GB:1..4`, `2`, or the keys below."""

    vendor: Annotated[GpuVendor, BeforeValidator(_read_vendor)] | None = Field(
        default=None, description="Who made the GPU: nvidia, amd, or google (tpu)."
    )
    name: (
        Annotated[
            tuple[str, ...],
            BeforeValidator(_read_names),
            WithJsonSchema(
                {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
                mode="validation",
            ),
        ]
        | None
    ) = Field(default=None, description="Name of the GPU, or several of which any will do.")
    count: IntRange = Field(
        default=IntRange(min=1, max=1), description="How many GPUs; exactly one if left out."
    )
    memory: MemoryRange | None = Field(default=None, description="Memory of each GPU, in GB.")
    total_memory: MemoryRange | None = Field(
        default=None, description="Memory of all GPUs together, in GB."
    )
    compute_capability: (
        Annotated[
            tuple[int, int],
            BeforeValidator(_read_capability),
            WithJsonSchema(
                {"type": ["string", "number", "array"], "examples": [7.5]}, mode="validation"
            ),
        ]
        | None
    ) = Field(
        default=None, description="The least compute capability of an NVIDIA GPU, as in `7.5`."
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        if isinstance(value, str):
            return parse_gpu(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return {"count": value}
        if not isinstance(value, (dict, Gpu)):
            raise wrong(f"must be GPUs such as `24GB` or `A100:2`, not {shown(value)}")
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        plain = handler.resolve_ref_schema(handler(core_schema))
        short = {"type": ["string", "integer"], "examples": ["A100", "24GB", "A100:80GB:2"]}
        return {"anyOf": [short, plain]}


def parse_gpu(text: str) -> dict[str, object]:
    """Return the parts of the short form `vendor:names:memory:count`, in any order."""
    parts: dict[str, object] = {}
    for token in "".join(text.split()).split(":"):
        key, value = _gpu_part(token, text)
        if key in parts:
            raise wrong(f"{shown(text)} says the GPU's {key} twice")
        parts[key] = value
        if key == "name" and token.lower().startswith("tpu-"):
            parts.setdefault("vendor", "google")
    return parts


def _gpu_part(token: str, text: str) -> tuple[str, object]:
    if not token:
        raise wrong(f"{shown(text)} has an empty part", "write GPUs as in `A100:80GB:2`")
    if token.lower() in VENDORS:
        return "vendor", VENDORS[token.lower()]
    if token[0].isalpha():
        return "name", _read_names(token)
    if any(letter.isalpha() for letter in token):
        return "memory", MemoryRange.model_validate(token)
    return "count", IntRange.model_validate(token)


class Resources(SpecModel):
    """CPU, memory, GPUs and disk of a machine."""

    cpu: IntRange = Field(default=IntRange(min=2), description="CPUs; `2..` if left out.")
    memory: MemoryRange = Field(
        default=MemoryRange(min=8), description="Memory, in GB; `8GB..` if left out."
    )
    shm_size: Memory | None = Field(
        default=None, description="Size of shared memory (/dev/shm), in GB, as in `16GB`."
    )
    gpu: Gpu | None = Field(
        default=None, description="GPUs; none if left out.", examples=["24GB", "A100:80GB:2"]
    )
    disk: Disk | None = Field(
        default=Disk(size=MemoryRange(min=100)), description="Disk, in GB; `100GB..` if left out."
    )
