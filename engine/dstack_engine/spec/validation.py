"""`python -m dstack_engine validate [--json] FILE…`: say of each whether it is good."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from dstack_engine.errors import ConfigurationError, Problem
from dstack_engine.spec.configurations import Configuration
from dstack_engine.spec.files import load_configuration
from dstack_engine.spec.parsing import parse_configuration
from dstack_engine.spec.scalars import WITH_DEFAULTS
from dstack_engine.spec.texts import MAX_BYTES

#: The name of standard input among the files.
STDIN: Final = "-"


def validate(
    paths: Sequence[str],
    as_json: bool = False,
    stdin: IO[Any] | None = None,
    stdout: IO[str] | None = None,
) -> int:
    """Write for each of *paths* whether it is good and what is not; return the exit status.

    With *as_json*, one JSON object a line: `file`, `ok`, and `configuration` (with all defaults) or
    `errors`. The status is 0 where every file is good, 1 where any is not.
    """
    source = sys.stdin if stdin is None else stdin
    target = sys.stdout if stdout is None else stdout
    good = True
    for path in paths:
        try:
            configuration = _read(path, source)
        except ConfigurationError as error:
            good = False
            target.write(_bad_line(path, error) if as_json else _bad_text(path, error))
        else:
            target.write(_good_line(path, configuration) if as_json else f"{path}: good\n")
    target.flush()
    return 0 if good else 1


def _read(path: str, stdin: IO[Any]) -> Configuration:
    if path == STDIN:
        text = getattr(stdin, "buffer", stdin).read(MAX_BYTES + 1)
        return parse_configuration(text, file=path)
    return load_configuration(Path(path))


def _good_line(path: str, configuration: Configuration) -> str:
    return _line(
        {
            "file": path,
            "ok": True,
            "configuration": configuration.model_dump(mode="json", context=WITH_DEFAULTS),
        }
    )


def _bad_line(path: str, error: ConfigurationError) -> str:
    return _line(
        {"file": path, "ok": False, "errors": [_problem(problem) for problem in error.problems]}
    )


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "line": problem.line,
        "column": problem.column,
        "key": problem.key,
        "message": problem.sentence,
    }


def _line(value: dict[str, object]) -> str:
    return json.dumps(value, allow_nan=False) + "\n"


def _bad_text(path: str, error: ConfigurationError) -> str:
    count = len(error.problems)
    return f"{path}: {count} problem{'s' if count > 1 else ''}\n{error.render()}\n"
