"""`python -m dstack_engine`: `serve` is the engine's process, `validate` checks configurations."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from dstack_engine import __version__
from dstack_engine.home import Home
from dstack_engine.spec.validation import validate


def main(arguments: list[str] | None = None) -> int:
    """Run the command in *arguments*; return the exit status."""
    parser = argparse.ArgumentParser(prog="dstack_engine", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    serving = verbs.add_parser("serve", help="be the engine of a home, until stopped")
    serving.add_argument("--home", type=Path, help="the home; default: of this user")
    checking = verbs.add_parser("validate", help="say whether configuration files are good")
    checking.add_argument("files", nargs="+", metavar="FILE", help="a file; - is standard input")
    checking.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args(arguments)
    if given.verb == "validate":
        return validate(given.files, given.json, sys.stdin.buffer, sys.stdout)
    # All that is made now stays: looking for garbage in it takes a tenth of the start. `serve`
    # switches the collector on again.
    gc.disable()
    from dstack_engine.serving import serve  # noqa: PLC0415  # `validate` must start fast

    return serve(Home(given.home.absolute()) if given.home else Home.of_user())


if __name__ == "__main__":
    sys.exit(main())
