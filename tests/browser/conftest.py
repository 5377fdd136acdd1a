"""Fixtures of tests in a real browser: a page, and a JupyterLab to look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import chromium
from tests.browser.lab import LabServer


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
