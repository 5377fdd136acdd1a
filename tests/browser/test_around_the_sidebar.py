"""Around the sidebar: the status bar, notifications, the launcher's card, the palette, offers."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.journeys import picture
from tests.browser.lab import LabServer, NotebookPage
from tests.browser.sidebar import Sidebar, log_of, start

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_what_runs_is_counted_and_who_fails_is_notified_with_a_way_to_its_log(
    lab: LabServer, page: Page
) -> None:
    lab.visit(page)
    start(lab.project, "fox", "sleep 600")
    count = page.get_by_role("button", name=re.compile(r"1 running"))
    expect(count).to_be_visible()
    start(lab.project, "hen", "echo what went wrong", "exit 3")
    told = page.locator(".Toastify__toast").filter(has_text="hen")
    expect(told).to_contain_text(re.compile("failed|error"))
    picture(page, "notification")
    told.get_by_role("button", name="Logs").click()
    log = log_of(page, "hen")
    expect(log).to_contain_text("what went wrong")
    count.click()
    expect(Sidebar(page).row("fox")).to_contain_text("running")


def test_the_launchers_notebook_is_run_as_it_is(lab: LabServer, page: Page) -> None:
    lab.visit(page)
    card = page.locator(".jp-LauncherCard").filter(has_text="dstack Notebook")
    card.hover()
    picture(page, "launcher")
    card.click()
    notebook = NotebookPage(page)
    notebook.wait_until_idle()
    expect(notebook.cell(0)).to_contain_text("A cell that begins with %%dstack says")
    notebook.run(1)
    notebook.run(3)
    sidebar = Sidebar(page).open()
    expect(sidebar.row("hello")).to_contain_text(re.compile("running|done"))
    picture(page, "template-notebook")


def test_offers_are_asked_for_and_become_a_cell_below_the_active_one(
    lab: LabServer, page: Page
) -> None:
    notebook = lab.notebook(page, "offers.ipynb", ["mine = 1", "yours = 2"])
    notebook.cell(0).click()
    sidebar = Sidebar(page).open()
    sidebar.button("Start the engine").click()
    sidebar.node.get_by_role("textbox", name="CPU").fill("1")
    sidebar.button("Show offers").click()
    offers = sidebar.node.get_by_role("table", name="Offers")
    expect(offers).to_contain_text("process")
    picture(page, "sidebar-offers")
    sidebar.node.get_by_role("button", name=re.compile("^Insert a cell for")).first.click()
    expect(notebook.cell(0)).to_contain_text("mine = 1")
    expect(notebook.cell(1)).to_contain_text("%%dstack task")
    expect(notebook.cell(2)).to_contain_text("yours = 2")
