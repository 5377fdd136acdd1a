"""From the wheel in a clean environment to a run in the sidebar: as who installs it meets it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.journeys import LOAD, card, picture
from tests.browser.lab import LabServer
from tests.browser.sidebar import Sidebar, confirm
from tests.packaging.distributions import distributions, environment

pytestmark = [pytest.mark.browser, pytest.mark.soak, pytest.mark.timeout(600)]

CELL = "%%dstack task --name first\ncommands: [echo hello, sleep 600]\n"


@pytest.fixture
def clean_lab(home: Path, tmp_path: Path) -> Iterator[LabServer]:
    """A JupyterLab in an environment that has the built wheel and nothing of this tree."""
    clean = environment(tmp_path / "clean")
    clean.install(distributions().wheel, "jupyterlab>=4.2", "ipykernel>=6")
    server = LabServer(tmp_path, python=clean.python)
    server.start()
    yield server
    server.stop()


def test_who_installs_the_wheel_chooses_sees_and_stops_a_run(
    clean_lab: LabServer, page: Page
) -> None:
    notebook = clean_lab.notebook(page, "first.ipynb", [LOAD, CELL])
    sidebar = Sidebar(page).open()
    notebook.run(0)
    table = notebook.run(1)
    table.get_by_role("row", name=re.compile(r"local \(process\)")).click()
    table.get_by_role("button", name="Submit on the chosen offer").click()
    live = card(notebook.output(1))
    expect(live.get_by_role("region", name="Output")).to_contain_text("hello")
    expect(sidebar.row("first")).to_contain_text("running")
    picture(page, "from-the-wheel")
    sidebar.button("Stop first").click()
    confirm(page, "Stop")
    expect(sidebar.row("first")).to_contain_text("terminated")
    expect(notebook.output(1)).to_contain_text("first was stopped by its user")
