"""Fixtures of tests in a real browser: the browser, a page, and a JupyterLab to look at."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser import chromium
from tests.browser.lab import LabServer
from tests.hosts.engines import REPOSITORY


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser without a window; installed first where it is missing."""
    setup = subprocess.run(
        [REPOSITORY / "scripts/setup-browser.sh"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if setup.returncode != 0:
        pytest.skip(f"needs a browser: {setup.stderr.strip()}")
    expect.set_options(timeout=chromium.PATIENCE_MS)
    with sync_playwright() as playwright, chromium.launched(playwright) as launched:
        yield launched


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page with its own cookies; the test fails if it asks anything beyond loopback."""
    with chromium.loopback_page(browser) as opened:
        yield opened


@pytest.fixture
def lab(home: Path, tmp_path: Path) -> Iterator[LabServer]:
    """A running JupyterLab with an empty project folder; its engine's home is this test's own."""
    server = LabServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def docker_home(home: Path, python_image: str) -> str:
    """A home whose runs have an image that is here, without asking any registry; its name."""
    home.mkdir(mode=0o700)
    (home / "config.yml").write_text(f"default_image: {python_image}\n")
    return python_image
