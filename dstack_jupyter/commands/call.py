"""One call of a verb: what `magics` and `cli` hand to the functions of `commands`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dstack_engine.client import Client
from dstack_engine.errors import ArgumentError
from dstack_jupyter.arguments import Parser, asks_for_help, parse
from dstack_jupyter.commands.table import Command, find_command, overview
from dstack_jupyter.session import Session
from dstack_jupyter.surfaces.base import Shown, Surface

#: The body of a cell begins below the line of its magic.
FIRST_BODY_LINE = 2


@dataclass(frozen=True)
class Call:
    """A verb with its arguments, where it is shown and by which session it is done."""

    command: Command
    parser: Parser
    arguments: argparse.Namespace
    surface: Surface
    session: Session
    #: The cell below `%%dstack VERB …`.
    body: str | None = None

    def client(self) -> Client:
        """Return a client of the engine, which is started first where none runs."""
        with self.surface.progress() as tell:
            return self.session.client(on_wait=lambda sentence: tell(sentence, None))

    def run_name(self) -> str:
        """Return the name of the run that the verb is about."""
        return str(self.arguments.run)

    def whole_number(self, option: str, *, least: int) -> int:
        """Return the option's value as a whole number. Raises `ArgumentError` if it is none."""
        text = str(getattr(self.arguments, option.replace("-", "_")))
        if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < least:
            raise ArgumentError(
                f"--{option} takes a whole number of at least {least}, not {text!r}"
            )
        return int(text)


def perform(
    words: Sequence[str],
    *,
    surface: Surface,
    session: Callable[[], Session],
    body: str | None = None,
    variables: Mapping[str, object] | None = None,
) -> object:
    """Do what *words* say and return the verb's value (a `Run`, an exit status or None).

    Raises `ArgumentError` for words that are wrong, and whatever the verb raises.
    """
    if not words or words[0] in ("-h", "--help"):
        surface.show(Shown(overview(surface.program)))
        return None
    command = find_command(words[0], surface.program)
    parser = command.parser(surface.program)
    # What follows `exec NAME` is another program's: its --help is not ours.
    if asks_for_help(words[1:2] if command.name == "exec" else words[1:]):
        surface.show(Shown(parser.format_help()))
        return None
    _check_body(command, surface, body)
    arguments = parse(parser, words[1:], variables=variables, keeps_rest=command.keeps_rest)
    call = Call(command, parser, arguments, surface, session(), body)
    return command.function()(call)


def _check_body(command: Command, surface: Surface, body: str | None) -> None:
    verb = command.name
    if command.has_body and body is None:
        hint = f"In a notebook: %%dstack {verb}, and the configuration below it in the same cell."
        if surface.program.startswith("%"):
            raise ArgumentError(
                f"%dstack {verb} has no configuration: write %%dstack {verb}, and it below"
            )
        raise ArgumentError(
            f"{surface.program} {verb} is for notebooks; here: apply -f FILE", hint=hint
        )
    if command.may_have_body:
        return
    if not command.has_body and body is not None and body.strip():
        raise ArgumentError(f"%%dstack {verb} takes no body: write %dstack {verb}")
