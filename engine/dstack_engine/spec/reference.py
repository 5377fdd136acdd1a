"""The configuration reference, `docs/configuration.md`, made from the types."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dstack_engine.spec.environment import Environment
from dstack_engine.spec.problems import models_in
from dstack_engine.spec.profiles import Profile, ProfileParameters
from dstack_engine.spec.resources import Memory
from dstack_engine.spec.scalars import Duration, DurationOrOff, IdleDuration, LongestRun

_HEAD: Final = """# Configuration reference

Made from the types by `python -m dstack_engine.spec.schema`; change those, not this page.
The same as a JSON schema: [configuration.schema.json](configuration.schema.json).

A configuration is one YAML mapping with a `type`. A key that is not listed here is an error.

* **Ranges**: `4` is exactly four, `2..8`, `2..`, `..8`.
* **Sizes**: `512MB`, `16GB`, `1TB`; a bare number is in GB.
* **Durations**: `90` (seconds), `30s`, `5m`, `2h`, `1d`, `1w`; `off` where it says so.
* **GPUs**: `24GB`, `A100`, `A100:80GB:2`, `nvidia:24GB..40GB:1..4`; parts in any order.
* **References**: `${{ run.args }}` in `commands` and `setup`, `${{ env.NAME }}` in `registry_auth`;
  `$${{` is a literal `${{`.
"""

_WORDS: Final[tuple[tuple[Any, str], ...]] = (
    (Environment, "mapping or list"),
    (Memory, "size"),
    (Duration, "duration"),
    (DurationOrOff, "duration or `off`"),
    (IdleDuration, "duration or `off`"),
    (LongestRun, "duration or `off`"),
)


def reference(kinds: Mapping[str, type[BaseModel]]) -> str:
    """Return the page: a table for each of *kinds*, for profiles, and for what is within them."""
    parts = [_HEAD]
    inner: dict[str, type[BaseModel]] = {}
    for kind, model in kinds.items():
        parts.append(_section(f"`type: {kind}`", model))
        for below in _models_below(model):
            inner.setdefault(below.__name__, below)
    parts.append(_section("Placement", ProfileParameters))
    parts.append(_section("Profile", Profile))
    parts.extend(_section(name, model) for name, model in sorted(inner.items()))
    return "\n".join(parts)


def fields_in_order(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of *model* as an author thinks of them: `type`, `name`, its own, others."""
    keys: list[str] = [key for key in ("type", "name") if key in model.model_fields]
    for base in model.__mro__:
        if issubclass(base, BaseModel):
            inherited = {key for parent in base.__bases__ for key in _fields(parent)}
            keys.extend(key for key in base.model_fields if key not in inherited)
    return {key: model.model_fields[key] for key in dict.fromkeys(keys)}


def _fields(kind: type) -> Mapping[str, FieldInfo]:
    return kind.model_fields if issubclass(kind, BaseModel) else {}


def _section(title: str, model: type[BaseModel]) -> str:
    about = (model.__doc__ or "").strip().splitlines()[0]
    placed = issubclass(model, ProfileParameters) and model is not ProfileParameters
    shared = ProfileParameters.model_fields if placed else {}
    rows = [_row(key, field) for key, field in fields_in_order(model).items() if key not in shared]
    head = [f"## {title}", "", about, ""]
    if placed:
        head[3:] = ["", "The keys of [Placement](#placement), and:", ""]
    return "\n".join([*head, "| key | value | default | meaning |", "|---|---|---|---|", *rows, ""])


def kind_words(field: FieldInfo) -> str:
    """Return in Markdown what *field* takes, a type of ours as a link to its section."""
    return _named_kind(field.annotation, field.metadata) or _kind(field.annotation)


def _row(key: str, field: FieldInfo) -> str:
    cells = (f"`{key}`", kind_words(field), default_words(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _named_kind(annotation: Any, metadata: Sequence[Any]) -> str | None:
    # A field without `| None` has its annotation's parts in two places.
    for kind, word in _WORDS:
        if annotation == kind:
            return word
        if metadata and (annotation, [*metadata]) == (get_args(kind)[0], [*kind.__metadata__]):
            return word
    return None


def default_words(field: FieldInfo) -> str:
    """Return in Markdown what holds where *field* is left out; nothing where that is nothing."""
    if field.default is PydanticUndefined:
        return "**required**"
    if field.default is None or field.default in ((), {}):
        return ""
    if isinstance(field.default, BaseModel):
        own = type(field.default).__str__ is not BaseModel.__str__
        return f"`{field.default}`" if own else ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _kind(annotation: Any) -> str:
    if word := _named_kind(annotation, ()):
        return word
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in arguments if part is not type(None))
    if origin is tuple and Ellipsis in arguments:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {str: "text", int: "number", float: "number", bool: "true or false"}.get(
        annotation, "text"
    )


def chosen_words(annotation: Any) -> Iterator[str]:
    """Yield the words that *annotation* lets choose from, at any depth but in no other type."""
    if get_origin(annotation) is Literal:
        yield from (str(word) for word in get_args(annotation))
        return
    if annotation is bool:
        yield from ("true", "false")
    for part in get_args(annotation):
        yield from chosen_words(part)


def _models_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        for found in models_in(field.annotation):
            yield found
            yield from _models_below(found)
