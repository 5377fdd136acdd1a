"""The published JSON schema of configurations, and the reference made from it.

`python -m dstack_engine.spec.schema [FOLDER]` writes `configuration.schema.json` and
`configuration.md` into the folder (`docs` if none is named). Editors complete and check by the
schema; completion in the notebook asks `keys_of`.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from dstack_engine.spec.configurations import CONFIGURATION_TYPES
from dstack_engine.spec.problems import model_at
from dstack_engine.spec.reference import chosen_words, fields_in_order, reference

SCHEMA_NAME: Final = "configuration.schema.json"
REFERENCE_NAME: Final = "configuration.md"


@cache
def configuration_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a configuration; the caller does not change it."""
    models = [*CONFIGURATION_TYPES.values()]
    refs, schema = models_json_schema([(model, "validation") for model in models])
    # One "if type is so, then" each: a checker then speaks of the type meant, not of all six.
    branches = [
        {"if": {"properties": {"type": {"const": kind}}}, "then": refs[(model, "validation")]}
        for kind, model in CONFIGURATION_TYPES.items()
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dstack configuration",
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": [*CONFIGURATION_TYPES]}},
        "allOf": branches,
        "$defs": schema["$defs"],
    }


def keys_of(kind: str, *path: str) -> dict[str, str]:
    """Return the keys possible at *path* of a *kind*, each with its line of help; none if unknown.

    `keys_of("task", "resources")` holds `gpu` and what it means.
    """
    root = CONFIGURATION_TYPES.get(kind)
    model = None if root is None else model_at(root, path)
    fields = {} if model is None else fields_in_order(model)
    return {key: field.description or "" for key, field in fields.items()}


def words_of(kind: str, *path: str) -> tuple[str, ...]:
    """Return the words that the key at *path* of a *kind* chooses from; none if it takes others."""
    root = CONFIGURATION_TYPES.get(kind)
    model = None if root is None else model_at(root, path[:-1])
    field = None if model is None else model.model_fields.get(path[-1])
    return () if field is None else tuple(chosen_words(field.annotation))


def write(folder: Path) -> None:
    """Write the schema and the reference into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCHEMA_NAME).write_text(schema_text(), encoding="utf-8")
    (folder / REFERENCE_NAME).write_text(reference(CONFIGURATION_TYPES), encoding="utf-8")


def schema_text() -> str:
    """Return the schema as it is published."""
    return json.dumps(configuration_schema(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
