"""Run the quickstart notebook in a real kernel and print what came out, cell by cell.

Called by `make demo`. Uses the reader's own engine home, so that the run made here is found again
from their own notebooks; where it is, and how to stop the engine, is printed in the end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import docker
import nbformat
from docker.errors import DockerException
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

REPOSITORY = Path(__file__).parents[1]
NOTEBOOK = REPOSITORY / "notebooks/quickstart.ipynb"
CELL_TIMEOUT = 300  # seconds
SETTLED = ("text/markdown", "text/plain")  # what a terminal can show of a rich output, best first


class PrintingClient(NotebookClient):
    """Executes a notebook and prints every cell with its outputs as soon as it is done."""

    async def async_execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        if cell.cell_type == "markdown":
            print(f"\n{cell.source}", flush=True)
        if cell.cell_type != "code":
            return cell
        for number, line in enumerate(cell.source.splitlines()):
            print(f"{'In:  ' if number == 0 else '     '}{line}", flush=True)
        try:
            return await super().async_execute_cell(cell, cell_index, **options)
        finally:
            for output in cell.get("outputs", []):
                print(_indented(_text(output)), flush=True)


def main() -> int:
    """Run the notebook; return 0 when every cell went well."""
    print(f"Running {NOTEBOOK.relative_to(REPOSITORY)} in a kernel of its own.")
    print(_where_it_runs())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client = PrintingClient(
        notebook,
        timeout=CELL_TIMEOUT,
        resources=resources,
        # It warns that it listens on loopback without encryption, which every notebook does.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    try:
        client.execute()
    except CellExecutionError:
        print("\nThe cell above failed, and the demo stops here.", file=sys.stderr)
        return 1
    print(_what_now())
    return 0


def _where_it_runs() -> str:
    try:
        docker.from_env(timeout=5).ping()
    except (DockerException, OSError):
        return (
            "No Docker Engine answers here, so the run is a plain process of this computer;\n"
            "with one, it would be a container (make test installs one, as root)."
        )
    return "A Docker Engine answers here, so the run is a container where its image can be had."


def _what_now() -> str:
    home = os.environ.get("DSTACK_JUPYTER_HOME", "~/.dstack-jupyter")
    return f"""
It works. Next:
  make lab                               open this notebook in JupyterLab and change it
  .venv/bin/dstack-jupyter ps -a         see its runs from the terminal
  .venv/bin/dstack-jupyter engine stop   stop the engine (its home is {home})"""


def _text(output: Any) -> str:
    """Return what a terminal can show of one output; an empty string when that is nothing."""
    match output.output_type:
        case "stream":
            return str(output.text)
        case "error":
            return "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
        case _:
            return next((str(output.data[kind]) for kind in SETTLED if kind in output.data), "")


def _indented(text: str) -> str:
    return "\n".join(f"     {line}" for line in text.rstrip().splitlines())


if __name__ == "__main__":
    sys.exit(main())
