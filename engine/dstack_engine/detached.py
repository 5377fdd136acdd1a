"""A program of ours that outlives whoever starts it: the engine, the gateway.

`launcher` starts the one so, `gateway.link` the other. Each is a Python module, run by the
interpreter of who starts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path


def start(module: str, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
    """Start `python -m` *module* in a session of its own; what it prints is added to *output*.

    *output* is made (0600) if it is not there. Raises `OSError`.
    """
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            cwd="/",
            env=_environment(),
            start_new_session=True,  # a notebook's Ctrl-C is not for it
        )
    finally:
        os.close(written)


def reap_later(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of *process* on the side: it would stay a zombie of this process."""
    threading.Thread(target=process.wait, name=f"reaper of {process.pid}", daemon=True).start()


def _environment() -> dict[str, str]:
    # A kernel's own variables (JPY_*, MPLBACKEND, …) are nobody's business in the engine's jobs.
    drop = ("JPY_", "IPYKERNEL", "PYDEVD_", "MPLBACKEND", "JUPYTER", "COLAB_", "PYTHONPATH_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    paths = [path for path in sys.path if path and Path(path, "dstack_engine").is_dir()]
    if paths and not kept.get("PYTHONPATH"):
        kept["PYTHONPATH"] = paths[0]
    return kept
