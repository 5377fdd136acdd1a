"""The card in a real kernel: what a notebook that is executed and saved has to show."""

from __future__ import annotations

import json

import nbformat
import pytest
from nbclient import NotebookClient

SHOW = """
import threading
from tests.widgets.samples import a_run, frames_of
from dstack_engine.records.runs import RunStatus
from dstack_jupyter.widgets.run import RunCard
card = RunCard(a_run())
handle = card.display()
"""
END = """
def end():
    card.log(frames_of(b"\\x1b[31mlast words\\x1b[0m\\n"))
    card.update(a_run(RunStatus.DONE))
    card.ended()
threading.Thread(target=end).start()
assert card.wait_until_frozen(20)
"""


def a_notebook(*sources: str) -> str:
    """A notebook's file with these cells."""
    cells: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": source,
        }
        for source in sources
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells})


@pytest.mark.slow
def test_a_card_that_ended_is_static_in_the_saved_notebook() -> None:
    notebook = nbformat.reads(a_notebook(SHOW, END), as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert set(output.data) == {"text/html", "text/plain"}
    assert "✓ wet-fox-1  done" in output.data["text/plain"]
    assert output.data["text/plain"].endswith("last words")
    assert '<span style="color:#d1453b">last words</span>' in output.data["text/html"]
    assert notebook.cells[1].outputs == []
