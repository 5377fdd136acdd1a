"""The interpreter with torch, transformers and streamlit, which examples of services run with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.hosts.engines import REPOSITORY

PYTHON = REPOSITORY / ".venv-extras/bin/python"


class NoExtras(Exception):
    """The interpreter cannot be made here."""


def ensure() -> Path:
    """Return the interpreter, made first where it is missing; raise `NoExtras` with the reason."""
    setup = subprocess.run(
        [REPOSITORY / "scripts/setup-extras.sh"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if setup.returncode != 0:
        raise NoExtras(setup.stderr.strip())
    return PYTHON
