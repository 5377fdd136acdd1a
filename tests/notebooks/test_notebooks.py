"""The notebooks of tasks, executed in real kernels on both hosts, and what all notebooks keep to.

All in one file, so that one worker runs them: they listen on fixed ports of the process host.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.notebooks.executing import NOTEBOOKS, Notebook, execute, shown

pytestmark = pytest.mark.slow


def a_notebook(*sources: str) -> Notebook:
    """Return a notebook of these cells, the extension loaded before them."""
    cells = [nbformat.v4.new_code_cell(s) for s in ("%load_ext dstack_jupyter", *sources)]
    return nbformat.v4.new_notebook(cells=cells)


def test_notebooks_are_kept_without_outputs() -> None:
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert [path.name for path in paths] == [
        "openai_endpoint.ipynb",
        "quickstart.ipynb",
        "services.ipynb",
        "ssh_fleet.ipynb",
        "tasks.ipynb",
        "web_app.ipynb",
    ]
    for path in paths:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), f"{path.name}: clear its outputs"
            assert cell.get("execution_count") is None, f"{path.name}: clear its counts"


def test_the_quickstart_runs_and_runs_again(host: str, folder: Path) -> None:
    for _ in range(2):
        notebook = nbformat.read(folder / "quickstart.ipynb", as_version=4)
        cells = execute(notebook, folder)
        assert "Hello from hello" in cells["hello"]
        assert "5050" in cells["hello"]
        assert cells["object"].split() == ["done", "0", "5050"]
        assert "Hello from hello\n5050" in cells["logs"]
        assert "Directory listing" in cells["open"]
        assert "running" in cells["ps"]
        assert "terminated" in cells["stop"]
        assert "this computer has no GPU" in cells["gpus"] or "H100" in cells["gpus"]


def test_what_a_task_can_ask_for_is_shown_to_work(host: str, folder: Path) -> None:
    cells = execute(nbformat.read(folder / "tasks.ipynb", as_version=4), folder)
    assert "small in test, a token of 15 letters" in cells["env-run"]
    assert "training with --lr 0.1 --epochs 3" in cells["arguments-run"]
    assert "Python 3." in cells["python-run"]
    assert "quickstart.ipynb" in cells["files-run"]
    assert cells["files-read"].split("\n")[0] == "6 notebooks"
    assert "count.txt" in cells["files-read"]
    assert "10000000 bytes fit" in cells["resources-run"]
    assert "failed" in cells["memory-end"]
    assert "memory" in cells["memory-end"]
    assert "ready in " in cells["retry-run"]
    assert cells["retry-count"] == "True"
    assert "terminated" in cells["duration-end"]
    assert "max_duration" in cells["duration-end"]
    assert cells["ports-open"] == "200"
    assert "I am in server" in cells["exec"]
    assert cells["exec-object"] == "0"
    assert "terminated" in cells["stopped"]
    assert "asks " in cells["plan-run"]
    for name in ("environment", "arguments", "files", "greedy", "stubborn", "server"):
        assert name in cells["history"]


def test_a_wrong_cell_stops_the_notebook_without_a_traceback(host: str, folder: Path) -> None:
    notebook = a_notebook(
        "%%dstack task -y --wait\ncomands:\n  - echo hi", "print('this is never reached')"
    )
    with pytest.raises(CellExecutionError):
        execute(notebook, folder)
    _, wrong, after = notebook.cells
    assert after.execution_count is None
    told = shown(wrong)
    assert "commands" in told, told
    assert "Traceback" not in told
    assert "File " not in told


def test_a_failed_run_stops_the_notebook_with_its_reason_and_last_lines(
    host: str, folder: Path
) -> None:
    notebook = a_notebook(
        "%%dstack task -y --wait\ncommands:\n  - echo it went wrong here\n  - exit 7",
        "print('this is never reached')",
    )
    with pytest.raises(CellExecutionError):
        execute(notebook, folder)
    _, failed, after = notebook.cells
    assert after.execution_count is None
    told = shown(failed)
    assert "it went wrong here" in told
    assert "exit code 7" in told
    assert "Traceback" not in told
