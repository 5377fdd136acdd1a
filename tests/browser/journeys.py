"""What the journeys in a real JupyterLab share: settings, pictures, and what is on disk."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page, expect

LOAD = "%load_ext dstack_jupyter"
#: Where pictures of what was seen go, for whoever wants to look at them; none are taken without it.
PICTURES = os.environ.get("DSTACK_TEST_PICTURES")


def picture(page: Page, name: str, *, part: Locator | None = None) -> None:
    """Take a picture of the page, or a *part* of it, where somebody asked for pictures."""
    if PICTURES:
        (part or page).screenshot(path=Path(PICTURES, f"{name}.png"))


def card(output: Locator) -> Locator:
    """Return the live card in a cell's output."""
    return output.locator(".dstack-card")


def use_theme(page: Page, name: str) -> None:
    """Change the theme as the menu does, and return once the page wears it."""
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-item").filter(has_text=re.compile(r"^Theme")).click()
    page.get_by_role("menuitem", name=name, exact=True).click()
    expect(page.locator("body")).to_have_attribute("data-jp-theme-name", name)


def run_all(page: Page) -> None:
    """Run all cells, as the menu does."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def interrupt(page: Page) -> None:
    """Interrupt the kernel, as the button with the square does."""
    page.locator('.jp-NotebookPanel:visible [data-command="notebook:interrupt-kernel"]').or_(
        page.get_by_title(re.compile("Interrupt the kernel"))
    ).first.click()


def saved_outputs(path: Path, cell: int) -> list[Any]:
    """Return the outputs of a cell of a saved notebook."""
    outputs: list[Any] = nbformat.read(path, as_version=4).cells[cell].outputs
    return outputs


def engine_pid(home: Path) -> int | None:
    """Return the process that is the engine of *home* now; None while there is none."""
    try:
        return int(json.loads((home / "engine.json").read_text())["pid"])
    except FileNotFoundError:
        return None


def wait_until(true: Callable[[], bool], what: str, *, patience: float = 30.0) -> None:
    """Return once *true*; fail with *what* when it does not come about."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"it did not happen: {what}"
        time.sleep(0.05)
