"""`help`: the list of all verbs, what one of them takes, or what a key of the YAML means."""

from __future__ import annotations

from dstack_engine.errors import ArgumentError
from dstack_jupyter.commands.call import Call
from dstack_jupyter.commands.table import find_command, overview
from dstack_jupyter.surfaces.base import Shown


def show_help(call: Call) -> None:
    """Show the help."""
    call.surface.show(Shown(help_text(call.arguments.verb, call.surface.program)))


def help_text(verb: str | None, program: str) -> str:
    """Return the help for *verb* (or the key of that name), or for all.

    Raises `ArgumentError` for a word that is neither.
    """
    if verb is None:
        return overview(program)
    try:
        return find_command(verb, program).parser(program).format_help()
    except ArgumentError:
        if found := _keys_text(verb):
            return found
        raise


def _keys_text(name: str) -> str:
    from dstack_engine.spec.keys import find_keys  # noqa: PLC0415  # keeps `help` quick
    from dstack_jupyter.rendering.keys import key_text  # noqa: PLC0415

    return "\n\n".join(key_text(key) for key in find_keys(name))
