"""A service in the sidebar: its replicas, its address through the proxy, and a chat with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, expect

from dstack_engine.home import Home
from dstack_engine.launcher import connect
from tests.browser.journeys import picture
from tests.browser.lab import LabServer
from tests.browser.sidebar import Sidebar, confirm, start_model

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_model_is_opened_and_talked_to_without_a_notebook_and_without_the_token(
    lab: LabServer, page: Page, home: Path
) -> None:
    told: list[str] = []

    def note(request: Request) -> None:
        told.append(f"{request.url} {request.headers}")

    page.on("request", note)
    start_model(lab.project)
    lab.visit(page)
    sidebar = Sidebar(page).open()
    expect(sidebar.node.get_by_role("list", name="Models")).to_contain_text("1 replica ready")
    picture(page, "sidebar-service")
    with page.expect_popup() as opening:
        sidebar.button("Open parrot").click()
    opened = opening.value
    opened.wait_for_load_state()
    assert opened.url.startswith(f"{lab.url}/dstack-jupyter/services/parrot/"), opened.url
    opened.close()

    sidebar.button("Try echo").click()
    chat = page.get_by_role("log", name="Conversation")
    box = page.get_by_role("textbox", name="Message to the model")
    box.fill("good <b>morning</b> to you")
    page.keyboard.press("Enter")
    expect(chat).to_contain_text("1: good <b>morning</b> to you")
    box.fill("forever")
    page.keyboard.press("Enter")
    expect(chat).to_contain_text("3: and and and")
    picture(page, "sidebar-chat")
    page.get_by_role("button", name="Stop answering").click()
    with connect(Home(home)) as client:
        token = client.token()
    assert token not in page.content()
    assert not [one for one in told if token in one]

    sidebar.button("Stop parrot").click()
    confirm(page, "Stop")
    expect(sidebar.row("parrot")).to_contain_text("terminated")
    expect(sidebar.node.get_by_role("list", name="Services")).to_have_count(0)
