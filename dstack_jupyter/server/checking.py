"""What is wrong with a `%%dstack` cell, found with the engine's own parser while it is written.

Pure: nothing is run, asked or looked up. Called by `handlers` and `planning`.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

from dstack_engine.errors import ArgumentError, ConfigurationError, DstackError, Problem
from dstack_engine.spec.arguments import merge_arguments
from dstack_engine.spec.configurations import (
    CONFIGURATION_TYPES,
    Configuration,
    RunConfiguration,
)
from dstack_engine.spec.interpolation import references
from dstack_engine.spec.parsing import parse_configuration
from dstack_jupyter.arguments import Parser, parse, split, surplus_error
from dstack_jupyter.commands.table import COMMANDS, NOTEBOOK, Command

#: The largest cell that is read, in bytes.
MAX_CELL = 200_000

_MAGIC = re.compile(r"\s*%%dstack(?:\s+(?P<verb>\S+)(?P<words>.*))?$")
_OPTION = re.compile(r"--?[a-z][a-z-]*")
#: Options that are merged into the configuration, by their names in `merge_arguments`.
_MERGED = {
    "gpu": "gpu",
    "cpu": "cpu",
    "memory": "memory",
    "disk": "disk",
    "max_price": "max_price",
    "spot_policy": "spot_policy",
    "max_duration": "max_duration",
    "retry": "retry",
    "port": "ports",
    "backend": "backends",
    "region": "regions",
    "instance_type": "instance_types",
    "fleet": "fleets",
}


@dataclass(frozen=True)
class Cell:
    """A cell whose body is a configuration."""

    #: ``task``, ``service`` and so on: what its magic names.
    kind: str
    #: What follows on the magic's line, and the number of that line.
    words: str
    magic_line: int
    #: The column of the first of the words.
    words_column: int
    body: str

    @property
    def first_line(self) -> int:
        """Return the number of the body's first line."""
        return self.magic_line + 1

    def arguments(self) -> argparse.Namespace:
        """Return the options on the magic's line; raise `ArgumentError`."""
        return parse(self.parser(), split(self.words), keeps_rest=self._command.keeps_rest)

    def parser(self) -> Parser:
        """Return what reads the options."""
        return self._command.parser(NOTEBOOK)

    @property
    def _command(self) -> Command:
        return next(command for command in COMMANDS if command.name == self.kind)

    def overrides(self) -> dict[str, Any]:
        """Return what the options change, for `merge_arguments`.

        A value that is a variable of the notebook is not known here, and left out.
        """
        said = self.arguments()
        found = {}
        for option, name in _MERGED.items():
            value = _known(getattr(said, option, None))
            if value not in (None, []):
                found[name] = value
        return found


def read_cell(text: str) -> Cell | None:
    """Return the cell that *text* is; None for one that has no configuration of ours."""
    lines = text.split("\n")
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    found = None if first is None else _MAGIC.match(lines[first])
    if first is None or found is None or found["verb"] is None:
        return None
    if found["verb"] not in CONFIGURATION_TYPES:
        return None
    return Cell(
        found["verb"],
        found["words"],
        magic_line=first + 1,
        words_column=found.start("words") + 1,
        body="\n".join(lines[first + 1 :]),
    )


def problems_in(text: str) -> list[dict[str, Any]]:
    """Return everything that is wrong with the cell *text*, in the order of its lines.

    None for a cell that is not ours, and for a body that is not begun.
    """
    cell = read_cell(text)
    if cell is None:
        return []
    found = _argument_problems(cell)
    if cell.body.strip():
        found += _body_problems(cell, well_said=not found)
    return [_row(problem, cell) for problem in found]


def _argument_problems(cell: Cell) -> list[Problem]:
    try:
        cell.arguments()
    except ArgumentError as error:
        return [_on_magic_line(cell, error)]
    return []


def _body_problems(cell: Cell, *, well_said: bool) -> list[Problem]:
    try:
        configuration = parse_configuration(
            cell.body, expected_type=cell.kind, first_line=cell.first_line
        )
    except ConfigurationError as error:
        return [*error.problems]
    return _merge_problems(cell, configuration) if well_said else []


def _merge_problems(cell: Cell, configuration: Configuration) -> list[Problem]:
    """Return what is wrong with the options seen together with the body."""
    if not isinstance(configuration, RunConfiguration):
        return []
    # Variables get their values from the kernel, which is not asked.
    bare = configuration.model_copy(update={"env": {}}) if configuration.env else configuration
    said = cell.arguments()
    try:
        if said.rest and not _takes_words(configuration):
            raise surplus_error(cell.parser(), said.rest)
        merge_arguments(
            bare,
            name=_known(said.name),
            run_args=said.rest,
            **cell.overrides(),
            environ={},
        )
    except ConfigurationError as error:
        return [*error.problems]
    except DstackError as error:
        return [_on_magic_line(cell, error)]
    return []


def _takes_words(configuration: RunConfiguration) -> bool:
    texts = (*configuration.setup, *getattr(configuration, "commands", ()))
    return any(str(found) == "run.args" for text in texts for found in references(text))


def _on_magic_line(cell: Cell, error: DstackError) -> Problem:
    """Return what is wrong with an option, at the option where the message names it."""
    named = _OPTION.search(error.message)
    at = cell.words.find(named[0]) if named else -1
    return Problem(cell.magic_line, cell.words_column + max(at, 0), "", error.message)


def _known(value: Any) -> Any:
    if isinstance(value, list):
        return [one for one in value if _known(one) is not None]
    return None if isinstance(value, str) and value.startswith("$") else value


def _row(problem: Problem, cell: Cell) -> dict[str, Any]:
    return {
        "line": problem.line or cell.magic_line,
        "column": max(problem.column, 1),
        "key": problem.key,
        "message": problem.sentence,
    }
