"""Environment variables; a name alone in a list is taken from the author's own environment."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from dstack_engine.spec.scalars import Mistake, raise_all, read_text, shown, wrong

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def read_environment(value: object) -> dict[str, str | None]:
    """Return the variables in *value*; `None` is a value to take from the author's environment."""
    if isinstance(value, dict):
        return _read_mapping(value)
    if isinstance(value, (list, tuple)):
        return _read_list(list(value))
    raise wrong(f"must be a list of `NAME=value` or a mapping, not {shown(value)}")


def _read_mapping(value: dict[object, object]) -> dict[str, str | None]:
    variables: dict[str, str | None] = {}
    mistakes: list[Mistake] = []
    for name, given in value.items():
        if not isinstance(name, str):
            mistakes.append(((), f"the name {shown(name)} must be text", None))
            continue
        message, suggestion = _value_mistake(name, given)
        if message is None:
            variables[name] = read_text(given)
        else:
            mistakes.append(((name,), message, suggestion))
    raise_all(mistakes)
    return variables


def _value_mistake(name: str, given: object) -> tuple[str | None, str | None]:
    if "\0" in name or (isinstance(given, str) and "\0" in given):
        return "holds a NUL character, which no program can take", None
    if given is None:
        return "has no value", f'write "" for an empty one, or a list with `- {name}` to take yours'
    if isinstance(given, bool):
        return f"must be text, not {shown(given)}", f'put it in quotes: "{shown(given)}"'
    if not isinstance(given, (str, int, float)) or (
        not isinstance(given, str) and abs(given) >= 1e40
    ):
        return f"must be text, not {shown(given)}", None
    return None, None


def _read_list(entries: list[object]) -> dict[str, str | None]:
    variables: dict[str, str | None] = {}
    mistakes: list[Mistake] = []
    for index, entry in enumerate(entries):
        name, _, text = entry.partition("=") if isinstance(entry, str) else ("", "", "")
        if not isinstance(entry, str):
            hint = "leave out the `- ` to write a mapping" if isinstance(entry, dict) else None
            mistakes.append(((index,), f"must be `NAME=value` or `NAME`, not {shown(entry)}", hint))
        elif not _NAME.fullmatch(name):
            message = f"{shown(name)} cannot be a variable's name"
            mistakes.append(((index,), message, "letters, digits and _ only, no digit first"))
        elif "\n" in text or "\0" in text:
            hint = f"write the whole as a mapping: `{name}: |`"
            mistakes.append(((index,), "a value of several lines does not fit in a list", hint))
        elif name in variables:
            mistakes.append(((index,), f"the variable {name} is given twice", None))
        else:
            variables[name] = text if "=" in entry else None
    raise_all(mistakes)
    return variables


def write_environment(variables: dict[str, str | None]) -> dict[str, str | None] | list[str]:
    """Return *variables* so that reading them again gives the same."""
    if None not in variables.values():
        return variables
    return [name if value is None else f"{name}={value}" for name, value in variables.items()]


Environment = Annotated[
    dict[str, str | None],
    PlainValidator(read_environment),
    PlainSerializer(write_environment),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}},
                {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
            ]
        },
        mode="validation",
    ),
]
