"""Names and references in texts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_engine.errors import ArgumentError
from dstack_engine.spec.interpolation import InterpolationError, interpolate, references, split
from dstack_engine.spec.names import check_name, is_name, random_name


def test_random_names_are_names() -> None:
    source = random.Random(1)

    assert all(is_name(random_name(source=source)) for _ in range(500))


def test_a_random_name_is_never_one_that_is_taken() -> None:
    first = random_name(source=random.Random(7))
    second = random_name({first}, source=random.Random(7))

    assert first.endswith("-1")
    assert second == first.removesuffix("1") + "2"


@pytest.mark.parametrize("text", ["a", "a" * 42, "A", "1a", "-a", "a_b", "ab\n", "ä-b", ""])
def test_what_cannot_be_a_name_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="cannot be a name"):
        check_name(text)


@given(st.text(alphabet="${}. abrunsecret\n", max_size=40))
def test_a_text_is_split_or_refused_and_never_anything_else(text: str) -> None:
    try:
        pieces = list(split(text))
    except InterpolationError:
        return
    assert len(interpolate(text, {}).missing) <= len(pieces)


@given(st.text(max_size=40))
def test_a_text_whose_dollars_are_doubled_comes_out_as_it_was(text: str) -> None:
    assert interpolate(text.replace("$", "$$"), {}).text == text


def test_references_name_their_namespace() -> None:
    found = references("a ${{ run.args }} ${{env.B}} $${{ c.d }}")

    assert [str(one) for one in found] == ["run.args", "env.B"]
