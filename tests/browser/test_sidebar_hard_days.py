"""What the sidebar says when something is not there: the engine, the server, the right to act."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.journeys import engine_pid, picture, wait_until
from tests.browser.lab import LabServer
from tests.browser.sidebar import SETTINGS, Sidebar, in_terminal, start

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def open_lab(lab: LabServer, page: Page) -> Sidebar:
    """Open Lab without a notebook, with its sidebar."""
    lab.visit(page)
    return Sidebar(page).open()


def test_an_engine_that_is_down_is_said_and_started_by_a_button(
    lab: LabServer, page: Page, home: Path
) -> None:
    sidebar = open_lab(lab, page)
    expect(sidebar.button("Start the engine")).to_be_visible()
    assert engine_pid(home) is None, "a look starts nothing"
    picture(page, "sidebar-down")
    sidebar.button("Start the engine").click()
    expect(sidebar.button("Start the engine")).to_be_hidden()
    start(lab.project, "fox", "sleep 600")
    expect(sidebar.row("fox")).to_contain_text("running")

    killed = engine_pid(home)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    sidebar.button("Start the engine").click()
    wait_until(lambda: engine_pid(home) not in (killed, None), "another engine is started")
    expect(sidebar.button("Start the engine")).to_be_hidden()
    expect(sidebar.row("fox")).to_contain_text("running")

    in_terminal(lab.project, "stop", "fox", "-y")
    expect(sidebar.row("fox")).to_contain_text("terminated")
    lab.stop()
    expect(sidebar.node).to_contain_text("not reached")
    picture(page, "sidebar-unreached")


@pytest.fixture
def lab_without_server(home: Path, tmp_path: Path) -> Iterator[LabServer]:
    """A JupyterLab whose server has the extension disabled."""
    disabled = "--ServerApp.jpserver_extensions={'dstack_jupyter': False}"
    server = LabServer(tmp_path, options=[disabled])
    server.start()
    yield server
    server.stop()


def test_a_server_without_the_extension_is_told_from_one_that_is_down(
    lab_without_server: LabServer, page: Page
) -> None:
    sidebar = open_lab(lab_without_server, page)
    expect(sidebar.node).to_contain_text("jupyter server extension enable")
    picture(page, "sidebar-not-installed")


@pytest.fixture
def read_only_lab(home: Path, tmp_path: Path) -> Iterator[LabServer]:
    """A JupyterLab that may only look."""
    server = LabServer(tmp_path, settings={SETTINGS: {"readOnly": True}})
    server.start()
    yield server
    server.stop()


def test_who_may_only_look_sees_runs_and_their_logs_and_stops_nothing(
    read_only_lab: LabServer, page: Page
) -> None:
    start(read_only_lab.project, "fox", "echo hello", "sleep 600")
    sidebar = open_lab(read_only_lab, page)
    expect(sidebar.row("fox")).to_contain_text("running")
    expect(sidebar.button("Logs of fox")).to_be_visible()
    expect(sidebar.button("Stop fox")).to_have_count(0)
    sidebar.button("More actions for fox").click()
    expect(page.get_by_role("menuitem", name="Copy name")).to_be_visible()
    changing = re.compile("Stop|Abort|Delete|Run again")
    expect(page.get_by_role("menuitem", name=changing)).to_have_count(0)
    picture(page, "sidebar-read-only")


#: Lets everybody do everything but with dstack.
AUTHORIZER = """\
from jupyter_server.auth import AllowAllAuthorizer


class NoDstack(AllowAllAuthorizer):
    def is_authorized(self, handler, user, action, resource):
        return resource != "dstack"
"""


@pytest.fixture
def lab_without_the_right(home: Path, tmp_path: Path) -> Iterator[LabServer]:
    """A JupyterLab whose users have no right to dstack."""
    server = LabServer(tmp_path, options=["--ServerApp.authorizer_class=rights.NoDstack"])
    server.project.mkdir()
    (server.project / "rights.py").write_text(AUTHORIZER)
    server.start()
    yield server
    server.stop()


def test_who_has_no_right_to_dstack_is_told_whom_to_ask(
    lab_without_the_right: LabServer, page: Page
) -> None:
    start(lab_without_the_right.project, "fox", "sleep 600")
    sidebar = open_lab(lab_without_the_right, page)
    expect(sidebar.node).to_contain_text("You may not see runs on this server.")
    expect(sidebar.node).to_contain_text("the right to “dstack”")
    expect(sidebar.row("fox")).to_have_count(0)
    picture(page, "sidebar-not-authorised")
