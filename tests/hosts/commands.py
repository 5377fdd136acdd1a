"""Commands that make the ground which tests stand on; called by this folder's other modules."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


class NoGround(RuntimeError):
    """What a test stands on cannot be had here; the message says why."""


def set_up(what: str) -> None:
    """Run `scripts/setup-WHAT.sh`, which does nothing where it is there already."""
    output([REPOSITORY / f"scripts/setup-{what}.sh"])


def output(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    """Return what *command* prints; raise `NoGround` with its last words when it fails."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise NoGround(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
