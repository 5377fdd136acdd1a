"""`help`: the list of all verbs, or what one of them takes."""

from __future__ import annotations

from dstack_jupyter.commands.call import Call
from dstack_jupyter.commands.table import find_command, overview
from dstack_jupyter.surfaces.base import Shown


def show_help(call: Call) -> None:
    """Show the help."""
    call.surface.show(Shown(help_text(call.arguments.verb, call.surface.program)))


def help_text(verb: str | None, program: str) -> str:
    """Return the help for *verb*, or for all."""
    if verb is None:
        return overview(program)
    return find_command(verb, program).parser(program).format_help()
