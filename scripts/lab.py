"""Open the notebooks in JupyterLab. Called by `make lab`; further arguments go to JupyterLab.

The server listens on this computer only. Where there is no display, the address is printed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    """Become JupyterLab."""
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1"]
    command += [
        f"--ServerApp.root_dir={REPOSITORY}",
        "--LabApp.default_url=/lab/tree/notebooks/quickstart.ipynb",
    ]
    if os.geteuid() == 0:
        command.append("--allow-root")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        command.append("--no-browser")
    os.execv(sys.executable, [*command, *sys.argv[1:]])


if __name__ == "__main__":
    main()
