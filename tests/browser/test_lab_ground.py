"""The ground of the browser tests holds: a real kernel answers in a real page of a real Lab."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import chromium
from tests.browser.lab import LabServer

pytestmark = pytest.mark.browser


def test_a_cell_is_run_in_lab_restarted_and_saved(lab: LabServer, page: Page) -> None:
    source = "import os; print(os.environ['DSTACK_JUPYTER_HOME'], os.getcwd(), 1 + 1)"
    notebook = lab.notebook(page, "sum.ipynb", [source, "x = 1"])

    home = lab.project.parent / "dstack-home"
    expect(notebook.run(0)).to_contain_text(f"{home} {lab.project} 2")

    notebook.write(1, "print(os)")
    notebook.restart_kernel()
    expect(notebook.run(1)).to_contain_text("NameError")

    notebook.save()
    saved = nbformat.read(Path(lab.project, "sum.ipynb"), as_version=4)
    assert saved.cells[1].outputs[0].ename == "NameError"


def test_a_page_that_asks_beyond_this_machine_is_found_out(browser: Browser) -> None:
    with (
        pytest.raises(AssertionError, match=r"elsewhere\.invalid"),
        chromium.loopback_page(browser) as page,
    ):
        page.set_content('<img src="http://elsewhere.invalid/pixel.png">', wait_until="load")
