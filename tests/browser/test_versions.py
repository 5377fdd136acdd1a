"""A page and a server of different versions: it is said once, and then no more."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, Route, expect

from dstack_engine import __version__
from tests.browser.lab import LabServer

pytestmark = pytest.mark.browser


def test_a_server_of_another_version_is_spoken_of_once(lab: LabServer, page: Page) -> None:
    def other(route: Route) -> None:
        route.fulfill(
            content_type="application/json", body=json.dumps({"version": "99.0.0", "engine": None})
        )

    page.route(re.compile("/dstack-jupyter/version"), other)
    notice = page.get_by_role("alert").filter(has_text="99.0.0")
    with page.expect_response(re.compile("/api/workspaces/.*")):  # where it is remembered
        page.goto(f"{lab.url}/lab?reset&token={lab.token}")
    expect(notice).to_contain_text(f"this page is still version {__version__}")
    expect(notice).to_contain_text("Reload the page")
    page.get_by_role("button", name="Hide notification").click()
    expect(notice).to_have_count(0)

    with page.expect_response(re.compile("/dstack-jupyter/version")):
        page.goto(f"{lab.url}/lab?token={lab.token}")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
    expect(notice).to_have_count(0)
