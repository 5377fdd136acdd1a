"""The `dstack-jupyter` program: the notebook's verbs in a terminal.

Exit status: 0, 1 for what failed, 2 for wrong arguments, 130 after Ctrl-C; `exec` gives that of its
command, a run that was stayed with 1 if it failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from dstack_engine.errors import ArgumentError, ConfigurationError, DstackError
from dstack_jupyter.commands.table import TERMINAL
from dstack_jupyter.failures import Detached

INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Run the program with *words*, the process's own arguments if left out."""
    words = sys.argv[1:] if words is None else words
    try:
        status = _perform(words)
        sys.stdout.flush()
    except Detached as detached:
        _tell(str(detached))
        return INTERRUPTED
    except KeyboardInterrupt:
        _tell("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output went away (`… | head`); Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except DstackError as error:
        _tell(_with_colour(error))
        return 2 if isinstance(error, (ArgumentError, ConfigurationError)) else 1
    return status


def _perform(words: Sequence[str]) -> int:
    # Imported here so that `dstack-jupyter --help` and wrong words are answered at once.
    from dstack_jupyter.commands.call import perform  # noqa: PLC0415
    from dstack_jupyter.session import session  # noqa: PLC0415
    from dstack_jupyter.surfaces.terminal import TerminalSurface  # noqa: PLC0415

    surface = TerminalSurface(session, TERMINAL, is_program=True)
    value = perform(words, surface=surface, session=session)
    return value if isinstance(value, int) else 0


def _tell(text: str) -> None:
    if text:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _with_colour(error: DstackError) -> str:
    text = error.render()
    if isinstance(error, ConfigurationError) and error.file is not None:
        text = f"{error.file}: {text}"
    if not sys.stderr.isatty() or "NO_COLOR" in os.environ:
        return f"Error: {text}"
    return f"\x1b[1;31mError:\x1b[0m {text}"


if __name__ == "__main__":
    sys.exit(main())
