"""The sidebar on pages of every kind: reloaded, narrow, by keyboard alone, in Notebook 7."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Response, expect

from tests.browser.journeys import picture
from tests.browser.lab import LabServer
from tests.browser.sidebar import Sidebar, confirm, log_of, start

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def keeps(response: Response, word: str) -> bool:
    """Tell whether the page has just had *word* kept in its workspace."""
    asked = response.request
    return "/api/workspaces/" in asked.url and word in (asked.post_data or "")


def test_filter_and_closed_sections_are_kept(lab: LabServer, page: Page) -> None:
    for name, commands in (("fox", ["sleep 600"]), ("owl", ["echo hi"]), ("hen", ["exit 3"])):
        start(lab.project, name, *commands)
    lab.visit(page)
    sidebar = Sidebar(page).open()
    expect(sidebar.row("hen")).to_contain_text("failed")
    sidebar.filter.fill("fox")
    expect(sidebar.row("owl")).to_have_count(0)
    with page.expect_response(lambda response: keeps(response, "dstack-jupyter-machines")):
        sidebar.section("Fleets and machines").click()
    page.reload()
    expect(sidebar.filter).to_have_value("fox")
    expect(sidebar.row("fox")).to_be_visible()
    expect(sidebar.row("owl")).to_have_count(0)
    expect(sidebar.section("Fleets and machines")).to_have_attribute("aria-expanded", "false")
    expect(sidebar.section("Runs")).to_have_attribute("aria-expanded", "true")


def test_a_run_is_found_looked_into_and_stopped_by_keyboard_alone(
    lab: LabServer, page: Page
) -> None:
    start(lab.project, "fox", "echo hello", "sleep 600")
    start(lab.project, "owl", "sleep 600")
    lab.visit(page)
    sidebar = Sidebar(page)
    page.keyboard.press("Alt+Shift+D")
    expect(sidebar.filter).to_be_focused()
    expect(sidebar.row("fox")).to_contain_text("running")
    page.keyboard.type("fox")
    expect(sidebar.row("owl")).to_have_count(0)
    page.keyboard.press("ArrowDown")
    expect(sidebar.row("fox")).to_be_focused()
    page.keyboard.press("Enter")
    log = log_of(page, "fox")
    expect(log).to_contain_text("hello")
    page.keyboard.press("Alt+Shift+D")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Delete")
    picture(page, "sidebar-keyboard")
    page.keyboard.press("Enter")
    expect(sidebar.row("fox")).to_contain_text("terminated")


def test_the_sidebar_in_notebook_7_and_in_a_narrow_window(lab: LabServer, page: Page) -> None:
    start(lab.project, "a-run-with-quite-a-long-name", "sleep 600")
    lab.notebook_file("seven.ipynb", ["1 + 1"])
    page.set_viewport_size({"width": 700, "height": 800})
    page.goto(f"{lab.url}/notebooks/seven.ipynb?token={lab.token}")
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_attached()
    page.keyboard.press("Alt+Shift+D")
    sidebar = Sidebar(page)
    expect(sidebar.row("a-run-with-quite-a-long-name")).to_contain_text("running")
    picture(page, "sidebar-notebook-7")
    overflow = sidebar.node.evaluate("node => node.scrollWidth - node.clientWidth")
    assert overflow <= 0, f"the sidebar's content is {overflow} px wider than it"
    sidebar.button("Stop a-run-with-quite-a-long-name").click()
    confirm(page, "Stop")
    expect(sidebar.row("a-run-with-quite-a-long-name")).to_contain_text("terminated")
