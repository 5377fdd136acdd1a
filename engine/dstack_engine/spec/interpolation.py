"""References in texts: `${{ run.args }}`, `${{ env.NAME }}`, `${{ secrets.NAME }}`.

`$${{` is a literal `${{`, and `$$` a literal `$`. `parsing` checks the references, `arguments`
fills them in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_HALF: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPEN: Final = "${{"
_CLOSE: Final = "}}"
_LONGEST_SHOWN: Final = 60


class InterpolationError(ValueError):
    """A reference that cannot be read; its text is the message."""


@dataclass(frozen=True)
class Reference:
    """One `${{ namespace.name }}`, and how it is written."""

    namespace: str
    name: str
    written: str

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}"


@dataclass(frozen=True)
class Interpolated:
    """A text with its references filled in, and the names of those that could not be."""

    text: str
    missing: tuple[str, ...]


def split(text: str) -> Iterator[str | Reference]:
    """Yield the pieces of *text*: literal text with its escapes undone, and references.

    Raises `InterpolationError` for a reference that is not closed or not `namespace.name`.
    """
    position = 0
    while (found := text.find("$", position)) != -1:
        if found > position:
            yield text[position:found]
        if text.startswith("$" + _OPEN, found):
            yield _OPEN
            position = found + len(_OPEN) + 1
        elif text.startswith("$$", found):
            yield "$"
            position = found + 2
        elif text.startswith(_OPEN, found):
            reference = _reference(text, found)
            yield reference
            position = found + len(reference.written)
        else:
            yield "$"
            position = found + 1
    yield text[position:]


def _reference(text: str, start: int) -> Reference:
    end = text.find(_CLOSE, start)
    if end == -1:
        raise InterpolationError(f"`{_cut(text[start:])}` is not closed; it needs `}}}}`")
    inside = text[start + len(_OPEN) : end].strip()
    namespace, _, name = inside.partition(".")
    if not _HALF.fullmatch(namespace) or not _HALF.fullmatch(name):
        raise InterpolationError(
            f"`{_cut(inside)}` is not a reference; write it as `${{{{ run.args }}}}`"
        )
    return Reference(namespace, name, text[start : end + len(_CLOSE)])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"


def references(text: str) -> list[Reference]:
    """Return the references in *text*; raise `InterpolationError` as `split` does."""
    if _OPEN not in text:
        return []
    return [piece for piece in split(text) if isinstance(piece, Reference)]


def interpolate(
    text: str, variables: Mapping[str, str], *, skip: Collection[str] = ("secrets",)
) -> Interpolated:
    """Return *text* with *variables* (`"run.args"`, `"env.TOKEN"`) filled in.

    References whose namespace is in *skip* are left as they are written, and so are missing ones.
    """
    pieces: list[str] = []
    missing: list[str] = []
    for piece in split(text):
        if isinstance(piece, str):
            pieces.append(piece)
        elif piece.namespace in skip or str(piece) not in variables:
            pieces.append(piece.written)
            if piece.namespace not in skip:
                missing.append(str(piece))
        else:
            pieces.append(variables[str(piece)])
    return Interpolated("".join(pieces), tuple(missing))
