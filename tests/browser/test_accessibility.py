"""What axe-core finds in all of ours that Lab shows, in light and dark: nothing serious."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.axe import serious_findings
from tests.browser.journeys import LOAD, card, picture, use_theme
from tests.browser.lab import LabServer
from tests.browser.sidebar import Sidebar, log_of, start, start_model

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OFFERS = "%%dstack task --name later\ncommands:\n  - echo hi\n"
RUN = "%%dstack task --name fox -y --instance-type process\ncommands: [echo hi, sleep 600]"
#: Everything of ours, and how it is found.
PARTS = {
    "sidebar": ".jp-dstack-Sidebar",
    "offers table": ".jp-OutputArea .dstack-offers",
    "run card": ".jp-OutputArea .dstack-card",
    "log": ".jp-dstack-LogPanel",
    "chat": ".jp-dstack-ChatPanel",
    "status bar": ".jp-dstack-Status",
}


def test_nothing_is_seriously_wrong_in_light_and_dark(lab: LabServer, page: Page) -> None:
    start(lab.project, "hen", "echo what went wrong", "exit 3")
    start_model(lab.project)
    notebook = lab.notebook(page, "all.ipynb", [LOAD, OFFERS, RUN])
    notebook.run(0)
    expect(notebook.run(1).get_by_role("table")).to_be_visible()
    expect(card(notebook.run(2)).locator(".dstack-word")).to_have_text("running")
    sidebar = Sidebar(page).open()
    sidebar.button("Logs of hen").click()
    expect(log_of(page, "hen")).to_contain_text("what went wrong")
    sidebar.button("Try echo").click()
    page.get_by_role("textbox", name="Message to the model").fill("hello")
    page.keyboard.press("Enter")
    expect(page.get_by_role("log", name="Conversation")).to_contain_text("1: hello")
    found = {}
    for theme in ("light", "dark"):
        if theme == "dark":
            use_theme(page, "JupyterLab Dark")
        for tab in ("all.ipynb", "hen logs", "Chat with echo"):
            page.get_by_role("tab", name=re.compile(tab)).click()
            picture(page, f"{tab}-{theme}")
            for what, part in PARTS.items():
                if page.locator(part).first.is_visible():
                    found[what, theme] = serious_findings(page, part)
    assert len(found) == 2 * len(PARTS), f"not all of it was looked at: {sorted(found)}"
    said = [f"{key}: {text}" for key, texts in found.items() for text in texts]
    assert not said, "\n".join(said)
