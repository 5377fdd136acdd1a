"""A real JupyterLab server with a project folder of its own, and a notebook page in it."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from playwright.sync_api import Locator, Page, expect

#: Lab shows every cell at once and asks nothing: no news, no "select a kernel" on a busy machine.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {
        "windowingMode": "none",
        "autoStartDefaultKernel": True,
    },
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
START_PATIENCE = 120.0  # seconds; Lab answers after two or three, the rest is for a busy machine
#: What a user has set, by plugin.
Settings = Mapping[str, Mapping[str, object]]


class LabServer:
    """JupyterLab on loopback with a token; its files, settings and home are under *folder*.

    *settings* are what a user has set, by plugin; *python* is the interpreter that it is installed
    for; *options* are more words for its command line; *disabled* plugins are not loaded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Settings | None = None,
        python: Path | str = sys.executable,
        options: Sequence[str] = (),
        disabled: Sequence[str] = (),
    ) -> None:
        self.project = folder / "project"
        self.token = secrets.token_hex(16)
        self.url = ""
        self._settings = {**SETTINGS, **(settings or {})}
        self._python = str(python)
        self._options = tuple(options)
        self._disabled = tuple(disabled)
        self._home = folder / "jupyter-home"
        self._runtime = self._home / "runtime"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and return once it answers; `url` is its address then."""
        self.project.mkdir(parents=True, exist_ok=True)
        self._write_settings()
        options = ["--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
        options += ["--LabApp.news_url=None", "--LabApp.extension_manager=readonly"]
        options += ["--ServerApp.allow_root=True", "--LabServerApp.open_browser=False"]
        options += self._options
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", "jupyterlab", *options],
                cwd=self.project,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.url = self._wait_for_url()

    def stop(self) -> None:
        """End the server and its kernels."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def log(self) -> str:
        """What the server has written."""
        return (self._home / "server.log").read_text(errors="replace")

    def notebook(self, page: Page, name: str, cells: Sequence[str]) -> NotebookPage:
        """Write a notebook of code *cells* into the project and open it on *page*."""
        self.notebook_file(name, cells)
        return self.open(page, name)

    def notebook_file(self, name: str, cells: Sequence[str]) -> None:
        """Write a notebook of code *cells* into the project."""
        contents = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        nbformat.write(contents, self.project / name)

    def open(self, page: Page, name: str) -> NotebookPage:
        """Open the project's notebook *name* on *page*, with its kernel ready."""
        page.goto(f"{self.url}/lab/tree/{name}?reset&token={self.token}")
        opened = NotebookPage(page)
        opened.wait_until_idle()
        return opened

    def visit(self, page: Page) -> None:
        """Open Lab on *page* as at a first visit, with its launcher."""
        page.goto(f"{self.url}/lab?reset&token={self.token}")
        expect(page.locator(".jp-Launcher")).to_be_visible(timeout=60_000)
        wait_for_rest(page)

    def _environment(self) -> dict[str, str]:
        """Return this process's environment with every Jupyter folder replaced by one of ours."""
        return os.environ | {
            "HOME": str(self._home),
            "JUPYTER_TOKEN": self.token,
            "JUPYTER_CONFIG_DIR": str(self._home / "config"),
            "JUPYTER_DATA_DIR": str(self._home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self._runtime),
            "JUPYTERLAB_SETTINGS_DIR": str(self._home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self._home / "workspaces"),
            "IPYTHONDIR": str(self._home / "ipython"),
        }

    def _write_settings(self) -> None:
        for name, values in self._settings.items():
            _write_json(self._home / "settings" / f"{name}.jupyterlab-settings", values)
        disabled = dict.fromkeys(self._disabled, True)
        page = self._home / "config" / "labconfig" / "page_config.json"
        _write_json(page, {"disabledExtensions": disabled})

    def _wait_for_url(self) -> str:
        assert self._process is not None
        known = self._runtime / f"jpserver-{self._process.pid}.json"
        deadline = time.monotonic() + START_PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            if known.exists() and (text := known.read_text()):
                return str(json.loads(text)["url"]).rstrip("/")
            time.sleep(0.05)
        raise TimeoutError(f"JupyterLab did not start:\n{self.log[-2000:]}")


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def wait_for_rest(page: Page) -> None:
    """Return once Lab has come to rest on *page*."""
    expect(page.locator("#jupyterlab-splash")).to_have_count(0, timeout=60_000)


class NotebookPage:
    """A notebook as its reader sees it; cells are counted from 0."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def cell(self, index: int) -> Locator:
        """The cell, its input and its outputs."""
        return self.page.locator(".jp-NotebookPanel:visible .jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """All the outputs of a cell."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def run(self, index: int, *, wait: bool = True) -> Locator:
        """Run a cell as with Ctrl-Enter; with *wait*, return once the kernel is done with it."""
        prompt = self.cell(index).locator(".jp-InputArea-prompt")
        before = prompt.inner_text()
        self._press_run(index)
        try:
            expect(prompt).not_to_have_text(before, timeout=3_000)
        except AssertionError:
            # A page that has only just opened may take the focus back once; the key is lost then.
            self._press_run(index)
            expect(prompt).not_to_have_text(before)
        if wait:
            expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=60_000)
        return self.output(index)

    def _press_run(self, index: int) -> None:
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def write(self, index: int, source: str) -> None:
        """Replace the text of a cell."""
        self.cell(index).locator(".cm-content").fill(source)

    def save(self) -> None:
        """Save the notebook, as with Ctrl-S, and return once it is saved."""
        with self.page.expect_response(
            lambda response: response.request.method == "PUT" and "/api/contents/" in response.url
        ):
            self.page.keyboard.press("Control+s")

    def restart_kernel(self) -> None:
        """Restart the kernel as with the keys 0 0, and return once the new one is ready."""
        self.cell(0).locator(".jp-InputArea-prompt").click()
        self.page.keyboard.press("0")
        self.page.keyboard.press("0")
        self.page.get_by_role("button", name="Confirm Kernel Restart").click()
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Return once the page has come to rest and its kernel is there and has nothing to do."""
        wait_for_rest(self.page)
        indicator = self.page.locator(
            ".jp-NotebookPanel:visible .jp-Notebook-ExecutionIndicator[data-status=idle]"
        )
        expect(indicator).to_be_visible(timeout=60_000)
