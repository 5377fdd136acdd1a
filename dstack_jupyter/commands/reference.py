"""`docs/commands.md`, made from the table: `python -m dstack_jupyter.commands.reference docs`."""

from __future__ import annotations

import sys
from pathlib import Path

from dstack_jupyter.commands.table import COMMANDS, NOTEBOOK, TERMINAL, Command

PAGE = "commands.md"

_HEAD = """# Commands

Made from the table of commands by `python -m dstack_jupyter.commands.reference docs`; change that,
not this page.

A verb is the same in a notebook (`%dstack VERB …`) and in a terminal (`dstack-jupyter VERB …`).
`%%dstack task` and the other kinds of configuration are cells: the first line holds the options,
the lines below it the configuration. `%dstack help VERB` and `--help` show what is below.

* **Choosing.** Without `-y` nothing starts until someone chooses: in the table that a notebook's
  cell shows, by [y/n] in a terminal. Where nobody can be asked (a pipe, a script), `-y` is needed.
* **Waiting.** A cell returns at once, with a `Run` as its value: `status`, `wait()`, `logs()`,
  `stop()`, `ports`, `cost`, `files`, `exec()`. `--wait` stays until the run has ended and fails the
  cell if it failed. The terminal program stays with a run unless `--detach` is given.
* **Services.** Their `Run` has `url`, `path_url`, `report`, `openai()`, `wait_until_ready()`,
  `logs(replica=…)`. `--wait` stays until the service is ready. Running a service again under the
  name of one that runs updates that one, one replica at a time. `dstack_jupyter.openai()` and
  `openai_async()` return clients of all models that are served; `dstack_jupyter.token()` returns
  the token without showing it.
* **Ctrl-C** leaves the run as it is, and says how to see it again.
* **Variables.** In a notebook an option's whole value may be a variable: `--name $name`. The body
  of a cell is never expanded.
* **Exit status** of the program: 0; 1 for what failed; 2 for wrong words or a wrong configuration;
  130 after Ctrl-C; `exec` ends with its command's.
* In a notebook `stop`, `delete` and `prune` ask nothing: the cell is the answer. A terminal asks.
"""


def reference() -> str:
    """Return the page."""
    parts = [_HEAD]
    for command in COMMANDS:
        parts.append(_section(command))
    return "\n".join(parts)


def _section(command: Command) -> str:
    in_cell = command.has_body or command.may_have_body
    program = NOTEBOOK if in_cell else TERMINAL
    title = f"%%dstack {command.name}" if in_cell else command.name
    return f"## `{title}`\n\n```\n{command.parser(program).format_help().rstrip()}\n```\n"


if __name__ == "__main__":
    (Path(sys.argv[1] if len(sys.argv) > 1 else "docs") / PAGE).write_text(reference())
