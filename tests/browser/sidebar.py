"""The sidebar as its reader sees it: everything is found by role and label."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.notebook.test_services import MODEL

PARROT = """\
type: service
name: parrot
commands:
  - {python} -u {script} $DSTACK_SERVICE_PORT
port: 8000
model: echo
"""
#: The plugin whose settings are the sidebar's.
SETTINGS = "dstack-jupyter/sidebar"


class Sidebar:
    """The panel with what runs; open or not."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.node = page.locator(".jp-dstack-Sidebar")
        self.filter = page.get_by_role("textbox", name="Filter runs")

    def open(self) -> Sidebar:
        """Show it, as a click on its tab does."""
        if not self.node.is_visible():
            self.page.get_by_role("tab", name="dstack").click()
        expect(self.node).to_be_visible()
        return self

    def close(self) -> None:
        """Hide it, as a click on its tab does."""
        self.page.get_by_role("tab", name="dstack").click()
        expect(self.node).to_be_hidden()

    def section(self, name: str) -> Locator:
        """The heading of a section, which opens and closes it."""
        return self.node.get_by_role("button", name=name, exact=True)

    def row(self, name: str) -> Locator:
        """The row of a run in the section Runs."""
        return self.node.get_by_role("treeitem", name=re.compile(f"^{name}, "))

    @property
    def scroller(self) -> Locator:
        """What scrolls the list of runs."""
        return self.node.get_by_role("tree", name="Runs").locator("..")

    def button(self, label: str) -> Locator:
        """A button by its whole label, such as `Stop fox`."""
        return self.node.get_by_role("button", name=label, exact=True)

    def choose(self, run: str, action: str) -> None:
        """Choose from the menu that a row's last button opens."""
        self.button(f"More actions for {run}").click()
        self.page.get_by_role("menuitem", name=action, exact=True).click()


def log_of(page: Page, name: str) -> Locator:
    """The output of a run in its panel."""
    return page.get_by_role("region", name=f"Output of {name}", exact=True)


def confirm(page: Page, word: str) -> None:
    """Press the button *word* in the dialog that asks once more."""
    page.get_by_role("dialog").get_by_role("button", name=word).click()


def in_terminal(project: Path, *words: str, text: str = "") -> None:
    """Do something with the `dstack-jupyter` program, as another window would."""
    done = subprocess.run(
        [sys.executable, "-m", "dstack_jupyter.cli", *words],
        cwd=project,
        input=text,
        text=True,
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def start(project: Path, name: str, *commands: str, more: str = "") -> None:
    """Start a task of plain processes in a terminal and leave it."""
    lines = "".join(f"  - {command}\n" for command in commands)
    (project / f"{name}.dstack.yml").write_text(f"type: task\ncommands:\n{lines}{more}")
    words = ["-y", "-d", "-n", name, "--instance-type", "process"]
    in_terminal(project, "apply", "-f", f"{name}.dstack.yml", *words)


def start_model(project: Path) -> None:
    """Start the service `parrot`, whose model `echo` says back what it is asked, and leave it."""
    script = project / "echo_model.py"
    script.write_text(MODEL)
    words = ["-f", "-", "-y", "-d", "--instance-type", "process", "--no-files"]
    text = PARROT.format(python=sys.executable, script=script)
    in_terminal(project, "apply", *words, text=text)
