"""What a page asks offers for: a cell, YAML, or a few resources. Called by `handlers`.

Nothing is taken from this server's environment: it is not the notebook's.
"""

from __future__ import annotations

from typing import Any

from dstack_engine.errors import ArgumentError, Refused
from dstack_engine.spec.arguments import merge_arguments
from dstack_engine.spec.configurations import Configuration, RunConfiguration, Runnable
from dstack_engine.spec.parsing import configuration_from_dict, parse_configuration
from dstack_jupyter.server.checking import Cell, read_cell

#: The resources that may be asked for by name; texts, as on the command line.
ASKED = ("gpu", "cpu", "memory", "disk", "max_price", "spot_policy")
_LISTS = ("backends", "regions", "instance_types")


def wanted_in(body: dict[str, Any]) -> Runnable:
    """Return the configuration to plan for a request's *body*.

    Raises `ArgumentError` for a body that asks for nothing we know, `ConfigurationError` for what
    is wrong in a cell or in YAML, and `Refused` for what is not run.
    """
    unknown = body.keys() - {"text", "yaml", *ASKED, *_LISTS}
    if unknown:
        raise ArgumentError(
            f"{min(unknown)!r} is nothing to ask offers for",
            hint=f"Ask with text (a cell), yaml, {', '.join((*ASKED, *_LISTS))}.",
        )
    configuration = _base(body)
    if not isinstance(configuration, RunConfiguration):
        raise Refused(f"A {configuration.type} is not planned here; tasks and services are.")
    # Variables play no part in what could be rented, and their values are the kernel's.
    bare = configuration.model_copy(update={"env": {}}) if configuration.env else configuration
    asked: dict[str, Any] = {name: _word(body, name) for name in ASKED}
    asked |= {name: _words(body, name) for name in _LISTS}
    return merge_arguments(bare, **asked, environ={})


def _base(body: dict[str, Any]) -> Configuration:
    text = _word(body, "text")
    if text is None:
        written = _word(body, "yaml")
        if written is None:
            return configuration_from_dict({"type": "task", "commands": [":"]})
        return parse_configuration(written)
    cell = read_cell(text)
    if cell is None or not cell.body.strip():
        raise ArgumentError("This is no cell with a configuration: %%dstack task, and YAML below.")
    return _merged(cell)


def _merged(cell: Cell) -> Configuration:
    configuration = parse_configuration(
        cell.body, expected_type=cell.kind, first_line=cell.first_line
    )
    if not isinstance(configuration, RunConfiguration):
        return configuration
    bare = configuration.model_copy(update={"env": {}}) if configuration.env else configuration
    return merge_arguments(bare, **cell.overrides(), environ={})


def _word(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise ArgumentError(f"{name} must be a text")
    return value or None


def _words(body: dict[str, Any], name: str) -> list[str] | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ArgumentError(f"{name} must be a list of texts")
    return value or None
