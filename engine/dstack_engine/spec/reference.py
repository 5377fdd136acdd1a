"""The configuration reference, `docs/configuration.md`, made from the types."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dstack_engine.spec.problems import models_in
from dstack_engine.spec.profiles import Profile

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


def reference(kinds: Mapping[str, type[BaseModel]]) -> str:
    """Return the page: a table for each of *kinds*, for profiles, and for what is within them."""
    parts = [_HEAD]
    named: dict[str, type[BaseModel]] = {**kinds, "profile": Profile}
    inner: dict[str, type[BaseModel]] = {}
    for kind, model in named.items():
        parts.append(_section(f"`type: {kind}`" if kind in kinds else "Profile", model))
        for below in _models_below(model):
            inner.setdefault(below.__name__, below)
    parts.extend(_section(name, model) for name, model in sorted(inner.items()))
    return "\n".join(parts)


def _section(title: str, model: type[BaseModel]) -> str:
    about = (model.__doc__ or "").strip().splitlines()[0]
    rows = [_row(key, field) for key, field in model.model_fields.items()]
    return "\n".join(
        [
            f"## {title}",
            "",
            about,
            "",
            "| key | value | default | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _row(key: str, field: FieldInfo) -> str:
    cells = (f"`{key}`", _kind(field.annotation), _default(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    if field.default is None or field.default in ((), {}):
        return ""
    if isinstance(field.default, BaseModel):
        return "see there" if "__str__" not in dir_of(type(field.default)) else f"`{field.default}`"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def dir_of(kind: type) -> set[str]:
    """Return what the classes of our own in *kind*'s line define."""
    return {
        name
        for base in kind.__mro__
        if base.__module__.startswith("dstack_engine")
        for name in vars(base)
    }


def _kind(annotation: Any) -> str:
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


def literal_words(annotation: Any) -> Iterator[str]:
    """Yield the words that *annotation* names with `Literal`, at any depth but in no other type."""
    if get_origin(annotation) is Literal:
        yield from (str(word) for word in get_args(annotation))
        return
    for part in get_args(annotation):
        yield from literal_words(part)


def _models_below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        for found in models_in(field.annotation):
            yield found
            yield from _models_below(found)
