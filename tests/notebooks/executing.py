"""Executing a notebook in a real kernel, and reading what its cells show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

Notebook = Any


def execute(notebook: Notebook, folder: Path) -> dict[str, str]:
    """Execute all cells in a new kernel; return what each one shows, by its id."""
    client = NotebookClient(
        notebook,
        timeout=240,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    client.execute()
    return {cell.id: shown(cell) for cell in notebook.cells if cell.cell_type == "code"}


def shown(cell: Notebook) -> str:
    """Return the text of the cell's outputs as one who cannot run a kernel sees them."""
    texts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            texts.append(output.text)
        elif output.output_type == "error":
            texts.append("\n".join(output.traceback))
        else:
            texts.append(output.data.get("text/plain", ""))
    return "\n".join(texts)
