"""Words into arguments: quotes, suggestions, variables, what is handed on."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_engine.errors import ArgumentError
from dstack_jupyter.arguments import asks_for_help, parse, split
from dstack_jupyter.commands.reference import reference
from dstack_jupyter.commands.table import COMMANDS, NOTEBOOK, TERMINAL, find_command, overview

DOCS = Path(__file__).parents[2] / "docs"


def task(*words: str, variables: dict[str, object] | None = None):  # type: ignore[no-untyped-def]
    """Parse *words* as those of `%%dstack task`."""
    command = find_command("task", NOTEBOOK)
    return parse(command.parser(NOTEBOOK), words, variables=variables, keeps_rest=True)


def test_quotes_are_a_shells_and_a_hash_is_no_comment() -> None:
    assert split("logs 'a b' #c") == ["logs", "a b", "#c"]
    with pytest.raises(ArgumentError, match="a quote is left open"):
        split("logs 'a")


def test_words_that_no_option_takes_are_kept_in_order_for_the_run() -> None:
    said = task("--name", "x", "train", "--lr", "0.1", "--", "--name", "-y")
    assert (said.name, said.yes) == ("x", False)
    assert said.rest == ["train", "--lr", "0.1", "--name", "-y"]


def test_an_options_whole_value_may_be_a_variable_and_nothing_else() -> None:
    names = {"n": "mine", "m": 3, "e": "A=1"}
    said = task("-n", "$n", "--max-price", "$m", "-e", "$e", "-e", "B=$n", "$n", variables=names)
    assert (said.name, said.max_price, said.env) == ("mine", "3", ["A=1", "B=$n"])
    assert said.rest == ["$n"]
    with pytest.raises(ArgumentError, match="no variable 'q'"):
        task("-n", "$q", variables=names)
    assert task("-n", "$q").name == "$q", "a shell has filled in its own already"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ps", "--al"], "did you mean --all"),
        (["stop"], "NAME"),
        (["engine", "strat"], "start"),
        (["logs", "a", "b"], "does not take 'b'"),
        (["task", "-n"], "expected one argument"),
        (["task", "--retry", "--no-retry"], "not allowed with"),
    ],
)
def test_a_wrong_word_is_an_error_that_never_exits(words: list[str], said: str) -> None:
    command = find_command(words[0], NOTEBOOK)
    with pytest.raises(ArgumentError, match=said):
        parse(command.parser(NOTEBOOK), words[1:], keeps_rest=command.keeps_rest)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_no_words_do_anything_but_parse_or_raise_our_error(words: list[str]) -> None:
    for command in COMMANDS:
        with contextlib.suppress(ArgumentError):
            parse(command.parser(TERMINAL), words, variables={}, keeps_rest=command.keeps_rest)


def test_help_is_asked_for_before_the_dashes_only() -> None:
    assert asks_for_help(["x", "--help"])
    assert not asks_for_help(["x", "--", "-h"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_verb_has_help_and_a_function(command) -> None:  # type: ignore[no-untyped-def]
    assert callable(command.function())
    text = command.parser(NOTEBOOK).format_help()
    assert command.summary in text
    assert command.name in overview(NOTEBOOK)
    assert "\x1b" not in text


def test_the_page_of_commands_is_fresh() -> None:
    page = (DOCS / "commands.md").read_text()
    assert all(command.summary in page for command in COMMANDS)
    if sys.version_info < (3, 13):  # later argparse writes the same options otherwise
        assert page == reference()
