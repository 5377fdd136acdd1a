"""Texts that mean harm are refused with a place, before they cost anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstack_engine.errors import ConfigurationError
from dstack_engine.spec import documents
from dstack_engine.spec.configurations import CONFIGURATION_TYPES
from dstack_engine.spec.parsing import configuration_from_dict, parse_configuration, parse_profiles

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HEAD = "type: task\nimage: x\n"

HOSTILE = {
    "lists in lists": ("[" * 999_999, "nested more than 64 levels"),
    "mappings in mappings": ("{a: " * 200_000, "nested more than 64 levels"),
    "dashes": ("- " * 400_000, "nested more than 64 levels"),
    "question marks": ("? " * 400_000, "nested more than 64 levels"),
    "a bomb": (BOMB, "more than 10,000 values"),
    "a bomb of merges": ("a: &a {b: 1}\nc:\n" + "  <<: *a\n" * 9_000, "more than 10,000 values"),
    "an alias within its anchor": ("a: &a [*a]", "refers to itself"),
    "an alias without an anchor": ("a: *b", "an anchor that is not there"),
    "a chain of anchors": (
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100)),
        "nested more than 64 levels",
    ),
    "many keys": ("".join(f"k{n}: 1\n" for n in range(9_000)), "more than 10,000 values"),
    "more than a megabyte": ("#" * 1_000_001, "1,000,001 bytes"),
    "a huge integer": (HEAD + "nodes: " + "9" * 900_000, "too large"),
    "a huge hexadecimal": (HEAD + "nodes: 0x" + "f" * 900_000, "too large"),
    "a huge duration": (HEAD + "max_duration: '" + "9" * 900_000 + "'", "is not a duration"),
    "a long duration": (HEAD + "max_duration: 99999999999w", "longer than a hundred years"),
    "many references": (
        "type: task\ncommands: ['" + "${{ a.b }}" * 90_000 + "']",
        "is not known here",
    ),
    "a tab": ("type: task\ncommands:\n\t- a\n", "a tab cannot indent YAML"),
    "only tabs": ("\t" * 999_999, "a tab cannot indent YAML"),
    "a NUL": ("type: task\0", "a NUL character"),
    "an escaped NUL": ('type: task\ncommands: ["\\0"]', "NUL"),
    "a control character": ("type: \x1b[31mtask", "U+001B"),
    "a lone surrogate": ("type: \ud800", "U+D800"),
    "a key twice": (HEAD + "image: y", "given twice; first on line 2"),
    "two documents": ("type: task\nimage: x\n---\ntype: task\n", "more than one document"),
    "a number as key": (HEAD + "8080: x", "a key must be text"),
    "a truth as key": (HEAD + "on: x", "YAML reads on as true"),
    "a list as key": (HEAD + "? [a]\n: x", "a key must be text"),
    "a tag": ("type: task\ncommands: !!python/object:os.system [x]", "the tag"),
    "a tag on a text": ("type: !secret task\nimage: x", "the tag"),
    "an open quote": ('type: "task', "a quotation mark is not closed"),
    "a colon too many": ("type: task: x", "a `:` is not possible here"),
}


@pytest.mark.parametrize(("text", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_it_is_refused_in_a_sentence_with_a_place(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(text)

    assert any(words in problem.sentence for problem in caught.value.problems)
    assert all(problem.line >= 1 and problem.column >= 1 for problem in caught.value.problems)
    assert len(caught.value.render()) < 30_000


def test_bytes_that_are_not_utf8_are_refused_where_they_are() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(b"type: task\nname: \xff\xfe\n")

    (found,) = caught.value.problems
    assert (found.line, found.column) == (2, 7)
    assert "0xff is not UTF-8" in found.message


def test_a_thousand_mistakes_are_counted_not_listed() -> None:
    text = "type: task\nimage: x\n" + "".join(f"key{n}: 1\n" for n in range(1_000))

    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(text)

    assert len(caught.value.problems) == 51
    assert caught.value.problems[-1].message == "… and 950 more"


def test_where_libyaml_is_not_built_in_the_answers_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(documents, "_LOADER", yaml.SafeLoader)
    quick = {name: case for name, case in HOSTILE.items() if len(case[0]) < 100_000}

    for text, words in quick.values():
        with pytest.raises(ConfigurationError) as caught:
            parse_configuration(text)
        assert any(words in problem.sentence for problem in caught.value.problems), words


KEYS = sorted({key for model in CONFIGURATION_TYPES.values() for key in model.model_fields})
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1..2", "..", "24GB", "A100:2", "off", "5m", "80:80", "${{ run.args }}"])
)
VALUES = st.recursive(
    SCALARS,
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), below, max_size=5)
    ),
    max_leaves=15,
)
CONFIGURATIONS = st.builds(
    lambda kind, keys: {**keys, "type": kind},
    st.sampled_from([*CONFIGURATION_TYPES]),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6),
)
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outcome(parse: Callable[[], object]) -> object:
    """Return what *parse* gives, or the error that it may raise; nothing else may come."""
    try:
        return parse()
    except ConfigurationError as error:
        return error


@QUICK
@given(CONFIGURATIONS | VALUES)
def test_any_yaml_is_a_configuration_or_a_configuration_error(value: object) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)

    assert outcome(lambda: parse_configuration(text)) is not None


@QUICK
@given(CONFIGURATIONS)
def test_any_dict_is_a_configuration_that_survives_json_or_an_error(value: dict[str, Any]) -> None:
    read = outcome(lambda: configuration_from_dict(value))

    if not isinstance(read, ConfigurationError):
        again = configuration_from_dict(json.loads(read.model_dump_json()))  # type: ignore[attr-defined]
        assert again.model_dump_json() == read.model_dump_json()  # type: ignore[attr-defined]


@QUICK
@given(st.text() | st.binary(), st.sampled_from(["task", None]))
def test_any_text_is_a_configuration_or_a_configuration_error(
    text: str | bytes, kind: str | None
) -> None:
    assert outcome(lambda: parse_configuration(text, expected_type=kind)) is not None
    assert outcome(lambda: parse_profiles(text)) is not None
