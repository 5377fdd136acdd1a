"""How the words after `%dstack` or `dstack-jupyter` become arguments.

argparse, but an error is an `ArgumentError` with a suggestion (nothing ever exits), `--` ends the
options, and words that no option takes are handed on (they may be meant for `${{ run.args }}`).
`commands.table` declares each verb's options with it; `magics` and `cli` call `parse`.
"""

from __future__ import annotations

import argparse
import difflib
import keyword
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from dstack_engine.errors import ArgumentError

_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


class Parser(argparse.ArgumentParser):
    """One verb's options. An error raises `ArgumentError`; help is text, never an exit."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            add_help=False,
            allow_abbrev=False,
            formatter_class=_Formatter,
        )
        # Python 3.14 colours help by the terminal it finds; ours is shown in notebooks as well.
        self.color = False

    @property
    def help_command(self) -> str:
        """Return the command that shows this verb's help."""
        program, _, verb = self.prog.replace("%%", "%").partition(" ")
        return f"{program} help {verb}"

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong as `ArgumentError`."""
        raise ArgumentError(
            f"{self.prog}: {message}", hint=f"`{self.help_command}` shows what it takes."
        )

    def option_strings(self) -> list[str]:
        """Return every option as it is written, long forms first."""
        names = [name for action in self._actions for name in action.option_strings]
        return sorted(names, key=lambda name: (not name.startswith("--"), name))

    def option_helps(self) -> dict[str, str]:
        """Return every option as it is written, long forms first, each with its line of help."""
        helps = {name: one.help or "" for one in self._actions for name in one.option_strings}
        return {name: helps[name] for name in self.option_strings()}

    def takes_value(self, option: str) -> bool:
        """Tell whether *option* is known and is followed by a value."""
        return any(
            option in action.option_strings and action.nargs != 0 for action in self._actions
        )

    def choices_of(self, option: str) -> list[str]:
        """Return the words that *option* (or a positional's name) takes; empty if any."""
        for action in self._actions:
            if option in (*action.option_strings, action.dest) and action.choices is not None:
                return [str(choice) for choice in action.choices]
        return []


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help without colours and of one width, so that it is the same text everywhere."""

    def __init__(self, prog: str, **_options: object) -> None:
        super().__init__(prog, max_help_position=28, width=96)


def split(line: str) -> list[str]:
    """Return the words of *line*, quotes as in a shell; `#` is no comment.

    Raises `ArgumentError` when a quote is left open.
    """
    try:
        return shlex.split(line, comments=False)
    except ValueError as error:
        raise ArgumentError(
            f"a quote is left open, or the line ends in a backslash: {line.strip()}"
        ) from error


def asks_for_help(words: Sequence[str]) -> bool:
    """Tell whether `-h` or `--help` stands among the options."""
    return any(word in ("-h", "--help") for word in _before_dashes(words)[0])


def parse(
    parser: Parser,
    words: Sequence[str],
    *,
    variables: Mapping[str, object] | None = None,
    keeps_rest: bool = False,
) -> argparse.Namespace:
    """Return the arguments; with *keeps_rest*, words that no option takes lie in `.rest`.

    An option's whole value `$name` is replaced by that variable of *variables*. Raises
    `ArgumentError` with the option that was probably meant.
    """
    options, behind = _before_dashes(words)
    arguments, surplus = parser.parse_known_args(options)
    if surplus and not keeps_rest:
        raise surplus_error(parser, surplus)
    if behind and not keeps_rest:
        raise surplus_error(parser, behind)
    arguments.surplus = surplus
    arguments.rest = [*surplus, *behind]
    if variables is not None:
        _fill_variables(parser, arguments, variables)
    return arguments


def variable_name(name: str) -> str:
    """Return *name*, which `-o` puts a value into. Raises `ArgumentError` if it can be none."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ArgumentError(f"-o takes the name of a variable, not {name!r}")
    return name


def surplus_error(parser: Parser, words: Sequence[str]) -> ArgumentError:
    """Return the error for words that the verb of *parser* does not take."""
    word = words[0].split("=", 1)[0]
    if word.startswith("-"):
        found = suggestion(word, parser.option_strings())
        return ArgumentError(f"{parser.prog} has no option {word}{found}")
    return ArgumentError(
        f"{parser.prog} does not take {' '.join(words)!r}",
        hint=f"`{parser.help_command}` shows what it takes.",
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` for the nearest of *known*, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _before_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    if "--" not in words:
        return list(words), []
    place = list(words).index("--")
    return list(words[:place]), list(words[place + 1 :])


def _fill_variables(
    parser: Parser, arguments: argparse.Namespace, variables: Mapping[str, object]
) -> None:
    for action in parser._actions:
        value = getattr(arguments, action.dest, None)
        if not action.option_strings or value is None:
            continue
        if isinstance(value, str):
            setattr(arguments, action.dest, _filled(value, variables))
        elif isinstance(value, list):
            setattr(arguments, action.dest, [_filled(item, variables) for item in value])


def _filled(value: str, variables: Mapping[str, object]) -> str:
    found = _VARIABLE.fullmatch(value)
    if found is None:
        return value
    if found[1] not in variables:
        raise ArgumentError(f"{value}: the notebook has no variable {found[1]!r}")
    return str(variables[found[1]])
