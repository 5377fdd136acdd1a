"""What is wrong, in our own words: from pydantic's errors to sentences with a suggestion.

`parsing` calls `sentences` and gives each its place in the text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dstack_engine.spec.configurations import CONFIGURATION_TYPES
from dstack_engine.spec.scalars import shown

#: Beyond so many, the rest is counted only: difflib is slow, and nobody reads more.
MAX_PROBLEMS: Final = 50
_CLOSE_ENOUGH: Final = 0.65
_LONGEST_GUESSED: Final = 60

_GUESS: Final = re.compile(r"did you mean `(.+)`\?")
_NOTHING: Final = object()

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True)
class Sentence:
    """One mistake: the path of keys to it, what is wrong, and what was perhaps meant."""

    path: Path
    message: str
    suggestion: str | None = None
    #: Whether the key is the mistake, not its value.
    at_key: bool = False
    #: Whether it is about the text as a whole.
    nowhere: bool = False

    @property
    def meant(self) -> Path | None:
        """Return the path of the key that a wrong one was perhaps meant to be."""
        found = _GUESS.fullmatch(self.suggestion or "") if self.at_key else None
        return None if found is None else (*self.path[:-1], found[1])


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return the question that names the word of *known* nearest to *word*, if any is near."""
    if len(word) > _LONGEST_GUESSED:
        return None
    lowered = word.lower()
    near = difflib.get_close_matches(lowered, [*known], n=5, cutoff=_CLOSE_ENOUGH)
    if not near:
        return None
    # Of several, the one of the same letters: `prot` is `port`, not `priority`.
    letters = sorted(lowered)
    best = max(near, key=lambda one: difflib.SequenceMatcher(None, letters, sorted(one)).ratio())
    return f"did you mean `{best}`?"


def sentences(
    error: ValidationError, root: type[BaseModel], written: Mapping[str, Any]
) -> Iterator[Sentence]:
    """Yield the mistakes of *error*, met reading *written* as *root*; at most `MAX_PROBLEMS`."""
    details = error.errors(include_url=False)
    for detail in details[:MAX_PROBLEMS]:
        if detail["type"] != "rule":
            yield _sentence(detail, root, written)
    if len(details) > MAX_PROBLEMS:
        yield Sentence((), f"… and {len(details) - MAX_PROBLEMS} more", nowhere=True)


def _sentence(detail: ErrorDetails, root: type[BaseModel], written: Mapping[str, Any]) -> Sentence:
    path = _within(detail["loc"], written)
    given, facts = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "said":
            return Sentence(path, facts["message"], facts["suggestion"])
        case "missing":
            what = f"`{path[-1]}` is required"
            return Sentence(path, what, _help_of(root, path), at_key=True)
        case "extra_forbidden":
            return Sentence(path, *_unknown_key(path, root), at_key=True)
        case "literal_error" | "union_tag_invalid":
            return _not_a_choice(path, given, facts)
        case "union_tag_not_found":
            return Sentence(path, "`type` is required")
        case "tuple_type":
            hint = (
                "write it as a list: `- …` on a line of its own"
                if isinstance(given, (str, int))
                else None
            )
            return Sentence(path, f"must be a list, not {shown(given)}", hint)
        case "model_type" | "model_attributes_type" | "dict_type":
            return Sentence(path, f"must be a mapping of keys, not {shown(given)}")
        case _:
            return Sentence(path, f"cannot be {shown(given)}")


def _within(loc: Path, written: Mapping[str, Any]) -> Path:
    # pydantic puts names of its own (a union's member, a mapping's "[key]") among the keys.
    path: list[str | int] = []
    here: Any = written
    for index, part in enumerate(loc):
        below = _below(here, part)
        if below is not _NOTHING:
            here = below
        elif part == "[key]" or index < len(loc) - 1 or not isinstance(here, Mapping):
            continue
        path.append(part)
    return tuple(path)


def _below(here: object, part: str | int) -> object:
    if isinstance(here, Mapping):
        return here.get(part, _NOTHING)
    if isinstance(here, (list, tuple)) and isinstance(part, int) and part < len(here):
        return here[part]
    return _NOTHING


def _not_a_choice(path: Path, given: object, facts: Mapping[str, Any]) -> Sentence:
    words = re.findall(r"'([^']*)'", str(facts.get("expected") or facts.get("expected_tags") or ""))
    if facts.get("expected_tags") and isinstance(given, Mapping):
        given, path = given.get("type"), (*path, "type")
    allowed = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)
    guess = did_you_mean(given, words) if isinstance(given, str) else None
    return Sentence(path, f"must be {allowed}, not {shown(given)}", guess)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the types of mappings that *annotation* names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def model_at(root: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """Return the type of the mapping at *path* below *root*."""
    here: type[BaseModel] | None = root
    for part in path:
        if isinstance(part, int) or here is None:
            continue
        field = here.model_fields.get(part)
        here = next(models_in(field.annotation), None) if field is not None else None
    return here


def _help_of(root: type[BaseModel], path: Path) -> str | None:
    model = model_at(root, path[:-1])
    field = model.model_fields.get(str(path[-1])) if model is not None else None
    if field is None or not field.description:
        return None
    return field.description[0].lower() + field.description[1:].rstrip(".")


def _unknown_key(path: Path, root: type[BaseModel]) -> tuple[str, str | None]:
    key = str(path[-1])
    model = model_at(root, path[:-1])
    known = [*model.model_fields] if model is not None else []
    return "is not a known key", _place_of(key, path, root) or did_you_mean(key, known)


def _place_of(key: str, path: Path, root: type[BaseModel]) -> str | None:
    """Return where *key* belongs, if it is a key of the language elsewhere."""
    if len(path) > 1 and key in root.model_fields:
        return f"`{key}` belongs at the top level; check the indentation"
    if len(path) > 1:
        return None
    kind = next((name for name, model in CONFIGURATION_TYPES.items() if model is root), None)
    if kind == "dev-environment" and key == "commands":
        return "a dev environment has `init` for the commands to run when it has started"
    for name, field in root.model_fields.items():
        if (
            any(key in model.model_fields for model in models_in(field.annotation))
            and name == "resources"
        ):
            return f"`{key}` belongs under `{name}`"
    if did_you_mean(key, root.model_fields):
        return None
    owners = [name for name, model in CONFIGURATION_TYPES.items() if key in model.model_fields]
    return f"only {' and '.join(owners)} can have `{key}`" if owners and kind else None
