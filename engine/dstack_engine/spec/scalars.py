"""The small values of the language: texts, numbers, durations; and the type all others extend.

Every other module of `dstack_engine.spec` builds on these types. Each reader takes whatever YAML
gave, returns the value meant, or raises in words an author understands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NoReturn, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    model_serializer,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

#: What a duration is when the author wrote `off`; never 0.
OFF: Final = "off"
Off: TypeAlias = Literal["off"]

#: The context of a `model_dump` that is to hold the defaults as well.
WITH_DEFAULTS: Final = {"defaults": True}

#: One mistake inside a value: where below it, the message, and what was perhaps meant.
Mistake: TypeAlias = tuple[tuple[str | int, ...], str, str | None]

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION: Final = re.compile(r"(\d{1,12}) *([smhdw])")
_LONGEST: Final = 100 * 365 * 86400
_LONGEST_SHOWN: Final = 60
_TRUE: Final = frozenset({"true", "yes", "on", "y", "t", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "n", "f", "0"})


class SpecModel(BaseModel):
    """Anything an author writes: never changed, no key too many; knows which were written."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def wrote(self, key: str) -> bool:
        """Return whether the author gave *key*; what was left out has its default."""
        return key in self.model_fields_set

    # However a configuration is stored or sent, it comes back knowing what its author wrote.
    @model_serializer(mode="wrap")
    def _only_written(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if info.context == WITH_DEFAULTS:
            return values
        return {key: value for key, value in values.items() if key in self.model_fields_set}


def wrong(message: str, suggestion: str | None = None) -> PydanticCustomError:
    """Return the error for a value that cannot be; the author is shown *message* as it is."""
    return PydanticCustomError("said", "{message}", {"message": message, "suggestion": suggestion})


def raise_all(mistakes: Iterable[Mistake], kind: str = "said") -> None:
    """Raise all of *mistakes* at once, each at its own place; do nothing if there is none."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                "rule" if kind == "rule" else "said",
                "{message}",
                {"message": message, "suggestion": suggestion},
            ),
            loc=place,
            input=None,
        )
        for place, message, suggestion in mistakes
    ]
    if details:
        raise ValidationError.from_exception_data("configuration", details)


def shown(value: object) -> str:
    """Return *value* as an author would write it, cut to a line's length."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…")
        case int() | float():
            # An integer of thousands of digits cannot even be written out.
            return str(value) if abs(value) < 1e40 else "a huge number"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def _refuse(what: str, value: object) -> NoReturn:
    raise wrong(f"must be {what}, not {shown(value)}")


def read_text(value: object) -> str:
    """Return *value* as text; numbers are taken as they are written."""
    if isinstance(value, bool):
        text = shown(value)
        raise wrong(f"must be text, not {text}", f'put it in quotes if the word is meant: "{text}"')
    if isinstance(value, (int, float)):
        if abs(value) >= 1e40:
            _refuse("text", value)
        return str(value)
    if isinstance(value, Mapping):
        raise wrong("must be text, not a mapping", "a text with `: ` in it needs quotes")
    if not isinstance(value, str):
        _refuse("text", value)
    if "\0" in value:
        raise wrong("holds a NUL character, which no program can take")
    return value


def read_boolean(value: object) -> bool:
    """Return *value* as true or false; YAML's words for them work in quotes too."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
        return value.strip().lower() in _TRUE
    _refuse("true or false", value)


def read_whole(value: object, least: int | None = None, most: int | None = None) -> int:
    """Return *value* as a whole number between *least* and *most*."""
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d{1,18}\s*", value):
        value = int(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse("a whole number", value)
    if abs(value) >= 2**63:
        raise wrong("is too large a number")
    if least is not None and value < least:
        raise wrong(f"must be {least} or more, not {value}")
    if most is not None and value > most:
        raise wrong(f"must be {most} or less, not {value}")
    return value


def read_number(value: object) -> float:
    """Return *value* as a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        _refuse("a number", value)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        _refuse("a number", value)
    if not math.isfinite(number):
        _refuse("a number", value)
    return number


def read_positive(value: object) -> float:
    """Return *value* as a number greater than 0."""
    number = read_number(value)
    if number <= 0:
        raise wrong(f"must be greater than 0, not {shown(value)}")
    return number


def read_duration(value: object) -> int:
    """Return *value* (`90`, `30s`, `5m`, `2h`, `1d`, `1w`) in seconds."""
    if isinstance(value, str):
        text = value.strip()
        if found := _DURATION.fullmatch(text):
            return _bounded(int(found[1]) * _SECONDS[found[2]])
        if re.fullmatch(r"\d{1,12}", text):
            return _bounded(int(text))
        if text == OFF:
            raise wrong("cannot be `off` here", "give a duration such as `2h`")
        raise wrong(
            f"{shown(value)} is not a duration",
            "write one number and one unit: `30s`, `5m`, `2h`, `1d`, `1w`",
        )
    if value is False:
        raise wrong("cannot be `off` here", "give a duration such as `2h`")
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong(f"must be a duration such as `30s`, `5m` or `2h`, not {shown(value)}")
    return _bounded(value)


def _bounded(seconds: int) -> int:
    if seconds < 0:
        raise wrong("a duration cannot be negative")
    if seconds > _LONGEST:
        raise wrong("is longer than a hundred years", "write `off` for no limit")
    return seconds


def read_duration_or_off(value: object) -> int | Off:
    """Return *value* in seconds, or `OFF`, which YAML reads as false where it has no quotes."""
    if value is False or (isinstance(value, str) and value.strip() == OFF):
        return OFF
    return read_duration(value)


def read_idle_duration(value: object) -> int | Off:
    """Return how long a machine may idle, in seconds, or `OFF` (also written -1) for ever."""
    if not isinstance(value, bool) and value in (-1, "-1"):
        return OFF
    return read_duration_or_off(value)


def read_longest_run(value: object) -> int | Off:
    """Return how long a run may last, in seconds, or `OFF`; 0 has always meant no limit."""
    return read_duration_or_off(value) or OFF


_DURATION_TEXT: Final = {"type": "string", "pattern": r"^\s*\d+ *[smhdw]?\s*$"}
_DURATION_NUMBER: Final = {"type": "integer", "minimum": 0}
_OFF_SCHEMA: Final[list[dict[str, Any]]] = [{"const": OFF}, {"const": False}]

Text = Annotated[
    str,
    PlainValidator(read_text),
    WithJsonSchema({"type": ["string", "number"]}, mode="validation"),
]
Boolean = Annotated[
    bool,
    PlainValidator(read_boolean),
    WithJsonSchema(
        {"enum": [True, False, 1, 0, "yes", "no", "on", "off", "true", "false"]}, mode="validation"
    ),
]
Positive = Annotated[
    float,
    PlainValidator(read_positive),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0}, mode="validation"),
]
Duration = Annotated[
    int,
    PlainValidator(read_duration),
    WithJsonSchema({"anyOf": [_DURATION_NUMBER, _DURATION_TEXT]}, mode="validation"),
]
DurationOrOff = Annotated[
    int | Off,
    PlainValidator(read_duration_or_off),
    WithJsonSchema({"anyOf": [_DURATION_NUMBER, _DURATION_TEXT, *_OFF_SCHEMA]}, mode="validation"),
]
IdleDuration = Annotated[
    int | Off,
    PlainValidator(read_idle_duration),
    WithJsonSchema(
        {"anyOf": [_DURATION_NUMBER, _DURATION_TEXT, *_OFF_SCHEMA, {"const": -1}]},
        mode="validation",
    ),
]
LongestRun = Annotated[
    int | Off,
    PlainValidator(read_longest_run),
    WithJsonSchema({"anyOf": [_DURATION_NUMBER, _DURATION_TEXT, *_OFF_SCHEMA]}, mode="validation"),
]


@dataclass(frozen=True)
class WholeBetween:
    """The annotation of a whole number that is *least* or more, and *most* or less."""

    least: int | None = None
    most: int | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: read_whole(value, self.least, self.most)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        bounds = {"minimum": self.least, "maximum": self.most}
        given = {key: bound for key, bound in bounds.items() if bound is not None}
        return {"type": ["integer", "string"], **given}
