"""What one key means, for whoever stands at it: its values, its default, the line of help.

Shift-Tab on a key, `%dstack help KEY` and the reference of the page ask `describe_key`; the types
of the language answer, as they do in `docs/configuration.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dstack_engine.spec.configurations import CONFIGURATION_TYPES
from dstack_engine.spec.problems import model_at, models_in
from dstack_engine.spec.reference import default_words, fields_in_order, kind_words
from dstack_engine.spec.scalars import WholeBetween

#: So deep the language is at most, with room to grow.
_DEEPEST: Final = 6


@dataclass(frozen=True)
class KeyHelp:
    """One key of one kind of configuration."""

    #: `task`, `service`, …
    kind: str
    path: tuple[str, ...]
    help: str
    #: What may be written, in words: "number from 0 to 100", "GPUs: `A100`, `24GB`, …".
    value: str
    #: As it would be written; None where there is none.
    default: str | None
    required: bool
    examples: tuple[str, ...]
    #: The keys below it, each with its line of help.
    keys: Mapping[str, str]


def describe_key(kind: str, *path: str) -> KeyHelp | None:
    """Return what the key at *path* of a *kind* means; None if there is no such key."""
    root = CONFIGURATION_TYPES.get(kind)
    model = None if root is None or not path else model_at(root, path[:-1])
    field = None if model is None else model.model_fields.get(path[-1])
    if field is None:
        return None
    below = next(models_in(field.annotation), None)
    default = default_words(field)
    return KeyHelp(
        kind=kind,
        path=path,
        help=field.description or "",
        value=_value(field, below),
        default=None if field.is_required() or not default else default.strip("`"),
        required=field.is_required(),
        examples=tuple(_written(example) for example in field.examples or ()),
        keys={} if below is None else _helps(below),
    )


def find_keys(name: str) -> list[KeyHelp]:
    """Return the keys that *name* may mean: `gpu`, `resources.gpu`, or one: `task.resources.gpu`.

    A key that several kinds share is told once, of the first of them.
    """
    wanted = tuple(name.split("."))
    if wanted[1:] and wanted[0] in CONFIGURATION_TYPES:
        described = describe_key(*wanted)
        return [] if described is None else [described]
    found: dict[tuple[str, ...], KeyHelp] = {}
    for kind in CONFIGURATION_TYPES:
        for path in _paths(CONFIGURATION_TYPES[kind], ()):
            if path[-len(wanted) :] == wanted and path not in found:
                described = describe_key(kind, *path)
                if described is not None:
                    found[path] = described
    return sorted(found.values(), key=lambda one: len(one.path))


def _paths(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, field in fields_in_order(model).items():
        yield (*above, key)
        below = next(models_in(field.annotation), None)
        if below is not None and len(above) < _DEEPEST:
            yield from _paths(below, (*above, key))


def _helps(model: type[BaseModel]) -> dict[str, str]:
    return {key: field.description or "" for key, field in fields_in_order(model).items()}


def _value(field: FieldInfo, below: type[BaseModel] | None) -> str:
    words = kind_words(field)
    if below is not None:
        about = (below.__doc__ or "").strip().splitlines()[0]
        return f"list, each one: {about}" if words.startswith("list of") else about
    bounds = next(_bounds(field.metadata, field.annotation), None)
    if bounds is None:
        return words
    match bounds.least, bounds.most:
        case int(least), int(most):
            return f"{words} from {least} to {most}"
        case int(least), None:
            return f"{words}, {least} or more"
        case None, int(most):
            return f"{words}, {most} or less"
        case _:
            return words


def _bounds(metadata: list[Any], annotation: Any) -> Iterator[WholeBetween]:
    for one in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(one, WholeBetween):
            yield one
    for part in get_args(annotation):
        yield from _bounds([], part)


def _written(example: object) -> str:
    match example:
        case list():
            return "[" + ", ".join(_written(one) for one in example) + "]"
        case dict():
            pairs = (f"{key}: {_written(value)}" for key, value in example.items())
            return "{" + ", ".join(pairs) + "}"
        case _:
            return str(example)
