"""`python -m dstack_engine.gateway`: the gateway's process, started by the engine."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from dstack_engine.errors import DstackError
from dstack_engine.home import Home


def main(arguments: list[str] | None = None) -> int:
    """Be the gateway that *arguments* ask for; return the exit status."""
    # All that is made now stays; the workers switch the collector on again.
    gc.disable()
    from dstack_engine.gateway.serving import (  # noqa: PLC0415  # after the collector is off
        IDLE_LIMIT,
        serve,
    )
    from dstack_engine.records.publication import GATEWAY_PORT  # noqa: PLC0415  # as above

    parser = argparse.ArgumentParser(prog="dstack_engine.gateway", description=__doc__)
    parser.add_argument("--home", type=Path, help="the home; default: of this user")
    parser.add_argument("--port", type=int, default=GATEWAY_PORT, help="0: any")
    parser.add_argument("--processes", type=int, default=1, help="workers that share the port")
    parser.add_argument(
        "--idle-limit",
        type=float,
        default=IDLE_LIMIT,
        metavar="SECONDS",
        help="when a gateway ends that has neither services nor engine",
    )
    given = parser.parse_args(arguments)
    home = Home(given.home.absolute()) if given.home else Home.of_user()
    try:
        return serve(home, port=given.port, processes=given.processes, idle_limit=given.idle_limit)
    except DstackError as error:
        print(error.render(), file=sys.stderr)  # noqa: T201  # whoever started it reads it
        return 1


if __name__ == "__main__":
    sys.exit(main())
