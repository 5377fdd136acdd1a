"""From YAML text to a configuration, or to every mistake in it: line, column, key, suggestion.

The magics, the `dstack-jupyter` command and `validate` call `parse_configuration`; the API calls
`configuration_from_dict` with what a client sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from dstack_engine.errors import ConfigurationError, Problem
from dstack_engine.spec import interpolation
from dstack_engine.spec.configurations import CONFIGURATION_TYPES, Configuration, RunConfiguration
from dstack_engine.spec.documents import Document, read_document, walk_texts
from dstack_engine.spec.problems import Sentence, did_you_mean, sentences
from dstack_engine.spec.profiles import Profiles
from dstack_engine.spec.scalars import SpecModel, shown
from dstack_engine.spec.texts import key_path

M = TypeVar("M", bound=SpecModel)


def parse_configuration(
    text: str | bytes,
    *,
    expected_type: str | None = None,
    name: str | None = None,
    first_line: int = 1,
    file: str | None = None,
) -> Configuration:
    """Return the configuration that *text* says.

    *expected_type* is what the cell's magic names: it stands in for a missing `type` and must agree
    with one that is there. *name* takes the place of the text's own. *first_line* is the number
    that the text's first line is shown with, *file* what errors call the text.
    Raises `ConfigurationError` with every problem of the text.
    """
    document = read_document(text, first_line=first_line, file=file)
    found = [*_type_mistakes(document, expected_type)]
    if document.value is None and expected_type is not None:
        document.value = {}
    if found or not isinstance(document.value, dict):
        _refuse(document, found, file)
    written = {**document.value, "type": document.value.get("type", expected_type)}
    if name is not None:
        written["name"] = name
    model = CONFIGURATION_TYPES[written["type"]]
    found.extend(_reference_mistakes(written, model))
    return _build(document, model, written, found, file)


def parse_profiles(text: str | bytes, *, file: str | None = None) -> Profiles:
    """Return the profiles that *text*, a `profiles.yml`, says.

    Raises `ConfigurationError` with every problem of the text.
    """
    document = read_document(text, file=file)
    if not isinstance(document.value, dict):
        hint = "write `profiles:` and a list below it"
        _refuse(
            document,
            [Sentence((), f"profiles are a mapping, not {shown(document.value)}", hint)],
            file,
        )
    return _build(document, Profiles, document.value, [], file)


def configuration_from_dict(written: Mapping[str, Any]) -> Configuration:
    """Return the configuration in *written*, as JSON carries it, also after `merge_arguments`.

    Raises `ConfigurationError` with every problem, by key path, for there are no lines.
    """
    kind = written.get("type")
    if not isinstance(kind, str) or kind not in CONFIGURATION_TYPES:
        found = [Sentence(("type",), *_type_words(kind, "type" in written))]
        raise ConfigurationError([_placeless(sentence) for sentence in found])
    model = CONFIGURATION_TYPES[kind]
    configuration, found = _validate(model, written)
    if configuration is None or found:
        raise ConfigurationError([_placeless(sentence) for sentence in found])
    return configuration


def _placeless(sentence: Sentence) -> Problem:
    return Problem(0, 0, key_path(sentence.path), sentence.message, sentence.suggestion)


def _type_words(kind: object, given: bool) -> tuple[str, str | None]:
    known = [*CONFIGURATION_TYPES]
    choices = f"{', '.join(known[:-1])} or {known[-1]}"
    if not given:
        return "`type` is required", f"say what this is: {choices}"
    guess = did_you_mean(kind, known) if isinstance(kind, str) else None
    return f"must be {choices}, not {shown(kind)}", guess


def _type_mistakes(document: Document, expected_type: str | None) -> Iterator[Sentence]:
    value = document.value
    if value is None and expected_type is not None:
        return
    if not isinstance(value, dict):
        what = (
            "the text is empty"
            if value is None
            else f"a configuration is a mapping, not {shown(value)}"
        )
        yield Sentence((), what, "begin with `type: task`")
        return
    if "type" not in value and expected_type is not None:
        return
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in CONFIGURATION_TYPES:
        yield Sentence(("type",), *_type_words(kind, "type" in value))
    elif expected_type is not None and kind != expected_type:
        yield Sentence(
            ("type",),
            f"this cell is `%%dstack {expected_type}` but its body says `type: {kind}`",
            "change one of them",
        )


def _validate(model: type[M], written: Mapping[str, Any]) -> tuple[M | None, list[Sentence]]:
    value, found = None, []
    try:
        value = model.model_validate(dict(written))
    except ValidationError as error:
        found = [*sentences(error, model, written)]
    if value is None and issubclass(model, RunConfiguration):
        spoiled = {sentence.path[0] for sentence in found if sentence.path}
        found.extend(
            Sentence(path, message, suggestion)
            for path, message, suggestion in model.rules(written)
            if not path or path[0] not in spoiled
        )
    # A size alone is read as least and as most, and is wrong as both.
    return value, [*dict.fromkeys(_without_echoes(found))]


def _without_echoes(found: list[Sentence]) -> Iterator[Sentence]:
    """Yield *found* without what is missing only because its key is misspelt."""
    meant = {one.meant for one in found if one.meant is not None}
    for one in found:
        about = {one.path} if one.path else {("commands",), ("image",)}
        if one.meant is not None or one.nowhere or not (about & meant):
            yield one


def _build(
    document: Document,
    model: type[M],
    written: Mapping[str, Any],
    found: list[Sentence],
    file: str | None,
) -> M:
    value, more = _validate(model, written)
    if value is None or found or more or document.problems:
        _refuse(document, [*found, *more], file)
    return value


def _refuse(document: Document, found: list[Sentence], file: str | None) -> NoReturn:
    problems = [*document.problems]
    for one in found:
        if not one.nowhere:
            place = document.problem(one.path, one.message, one.suggestion, at_key=one.at_key)
            problems.append(place)
    problems.sort(key=lambda problem: (problem.line, problem.column))
    problems.extend(_placeless(one) for one in found if one.nowhere)
    raise ConfigurationError(problems, file=file)


#: Where references are filled in, and which ones.
_REFERENCES: Mapping[str, Callable[[interpolation.Reference], bool]] = {
    "commands": lambda reference: str(reference) == "run.args",
    "setup": lambda reference: str(reference) == "run.args",
    "registry_auth": lambda reference: reference.namespace == "env",
}


def _reference_mistakes(written: Mapping[str, Any], model: type[SpecModel]) -> Iterator[Sentence]:
    for key, known in _REFERENCES.items():
        if key in model.model_fields:
            for path, text in walk_texts(written.get(key), (key,)):
                yield from _text_mistakes(path, text, known)


def _text_mistakes(
    path: tuple[str | int, ...], text: str, known: Callable[[interpolation.Reference], bool]
) -> Iterator[Sentence]:
    try:
        found = interpolation.references(text)
    except interpolation.InterpolationError as error:
        yield Sentence(path, str(error), "write `$${{` for a literal `${{`")
        return
    for reference in found:
        if not known(reference) and reference.namespace != "secrets":
            yield Sentence(
                path, f"{reference.written[:80]} is not known here", _hint(path, reference)
            )
            return


def _hint(path: tuple[str | int, ...], reference: interpolation.Reference) -> str:
    if path[0] == "registry_auth":
        return "`${{ env.NAME }}` is filled in here"
    if reference.namespace == "env":
        return f"commands see their environment themselves: write ${reference.name}"
    return "`${{ run.args }}` is filled in here; write `$${{` for a literal `${{`"
