"""Runs in the sidebar: seen whoever started them, looked into, opened, stopped, brought back."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.journeys import LOAD, card, picture, saved_outputs
from tests.browser.lab import LabServer
from tests.browser.sidebar import Sidebar, confirm, log_of, start

pytestmark = [pytest.mark.browser, pytest.mark.docker]

APP = """\
%%dstack task --name web-app
image: {image}
commands:
  - echo "hello from the app" > index.html
  - python -u -m http.server 8000
ports:
  - "*:8000"
"""


def test_runs_are_seen_opened_and_stopped_while_the_kernel_sleeps(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    cells = [LOAD, APP.format(image=docker_home), "import time; time.sleep(600)"]
    notebook = lab.notebook(page, "app.ipynb", cells)
    sidebar = Sidebar(page).open()
    expect(sidebar.node).to_contain_text("%%dstack task")
    picture(page, "sidebar-empty")
    notebook.run(0)
    notebook.run(1).get_by_role("button", name="Submit").click()
    expect(sidebar.row("web-app")).to_contain_text("running")
    start(lab.project, "elsewhere", "echo from a terminal", "sleep 600")
    expect(sidebar.row("elsewhere")).to_contain_text("running")
    picture(page, "sidebar-runs")

    with page.expect_popup() as opening:
        sidebar.button("Open port 8000 of web-app").click()
    app = opening.value
    expect(app.get_by_text("hello from the app")).to_be_visible()
    assert app.url.startswith(f"{lab.url}/dstack-jupyter/ports/web-app/8000/"), app.url
    app.close()

    notebook.run(2, wait=False)
    sidebar.button("Stop web-app").click()
    confirm(page, "Stop")
    expect(sidebar.row("web-app")).to_contain_text("terminated")
    expect(notebook.output(1)).to_contain_text("web-app was stopped by its user")
    expect(card(notebook.output(1))).to_have_count(0)
    expect(notebook.cell(2).locator(".jp-InputArea-prompt")).to_have_text("[*]:")

    sidebar.choose("elsewhere", "Abort…")
    confirm(page, "Abort")
    expect(sidebar.row("elsewhere")).to_contain_text("terminated")


def test_a_run_is_brought_back_below_the_active_cell_and_stays_in_the_file(
    lab: LabServer, page: Page, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.1; done"
    begin = (
        "%%dstack task --name longer -y --instance-type process\n"
        f"commands:\n  - echo before\n  - {wait}\n  - echo after\n"
    )
    notebook = lab.notebook(page, "longer.ipynb", [LOAD, begin, "mine = 'left alone'"])
    sidebar = Sidebar(page).open()
    notebook.run(0)
    expect(card(notebook.run(1)).locator(".dstack-word")).to_have_text("running")
    notebook.restart_kernel()
    notebook.run(2)
    sidebar.choose("longer", "Insert %dstack attach")
    expect(notebook.cell(2)).to_contain_text("mine = 'left alone'")
    expect(notebook.cell(3)).to_contain_text("%dstack attach longer")
    expect(notebook.cell(4)).to_have_count(0)
    notebook.run(0)
    again = card(notebook.run(3))
    expect(again.locator(".dstack-word")).to_have_text("running")
    picture(page, "sidebar-attached")
    go.touch()
    expect(notebook.output(3)).to_contain_text("longer ended by itself with exit code 0")
    notebook.save()
    (saved,) = saved_outputs(lab.project / "longer.ipynb", 3)
    assert set(saved.data) == {"text/html", "text/plain"}

    page.reload()
    notebook.wait_until_idle()
    expect(notebook.output(3).locator("pre")).to_have_text("before\nafter")
    sidebar.open()
    expect(sidebar.row("longer")).to_contain_text("done")
    sidebar.choose("longer", "Insert its cell")
    expect(notebook.cell(1)).to_contain_text("%%dstack task --name longer")


def test_a_log_is_followed_searched_and_copied(lab: LabServer, page: Page, tmp_path: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    go = tmp_path / "go"
    start(
        lab.project,
        "talker",
        "seq -f 'line %g' 1 100000",
        f"while [ ! -e {go} ]; do sleep 0.1; done",
        "echo and this",
    )
    lab.visit(page)
    sidebar = Sidebar(page).open()
    sidebar.button("Logs of talker").click()
    log = log_of(page, "talker")
    expect(log).to_contain_text("line 100000")
    picture(page, "sidebar-log")
    go.touch()
    expect(log).to_contain_text("and this")
    page.get_by_role("textbox", name="Search in the log").fill("line 77777")
    page.keyboard.press("Enter")
    expect(log).to_contain_text("line 77777")
    picture(page, "sidebar-log-searched")
