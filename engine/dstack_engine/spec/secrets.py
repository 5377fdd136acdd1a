"""Secrets: references to them can be read, and are refused by name until there are any."""

from __future__ import annotations

from typing import Final

from dstack_engine.errors import ConfigurationError, Problem
from dstack_engine.spec import interpolation
from dstack_engine.spec.documents import walk_texts
from dstack_engine.spec.scalars import SpecModel
from dstack_engine.spec.texts import key_path

_HINT: Final = "pass the value by `env`: a name alone in its list is taken from your environment"


def secret_references(configuration: SpecModel) -> list[tuple[str, str]]:
    """Return the key path and the text of every `${{ secrets.X }}` in *configuration*."""
    written = configuration.model_dump(mode="json", exclude_unset=True)
    return [
        (key_path(path), reference.written)
        for path, text in walk_texts(written)
        for reference in _references(text)
        if reference.namespace == "secrets"
    ]


def _references(text: str) -> list[interpolation.Reference]:
    try:
        return interpolation.references(text)
    except interpolation.InterpolationError:
        # Texts outside `commands`, `setup` and `registry_auth` may hold anything.
        return []


def refuse_secrets(configuration: SpecModel) -> None:
    """Raise `ConfigurationError` naming every secret that *configuration* refers to, if any.

    To be called before `merge_arguments` fills in the other references, which undoes escapes.
    """
    found = secret_references(configuration)
    if found:
        raise ConfigurationError(
            [
                Problem(0, 0, key, f"secrets are not available yet: {written}", _HINT)
                for key, written in found
            ]
        )
