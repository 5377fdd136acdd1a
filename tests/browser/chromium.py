"""A real browser for tests, which may speak to this machine only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Playwright, Request

#: Programs of that name that we take, best first; Playwright's own Chromium where there is none.
PROGRAMS = ("chromium", "google-chrome", "google-chrome-stable")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, "
    "EXCLUDE *.localhost",
)
PATIENCE_MS = 30_000  # for one expected thing on a page, on a busy machine


@contextmanager
def launched(playwright: Playwright) -> Iterator[Browser]:
    """Start the browser without a window, and close it in the end."""
    found = (shutil.which(name) for name in PROGRAMS)
    browser = playwright.chromium.launch(
        executable_path=next((path for path in found if path), None), args=list(FLAGS)
    )
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def loopback_page(browser: Browser) -> Iterator[Page]:
    """Open a page with its own cookies; on leaving, fail if it asked anything beyond loopback."""
    strangers: list[str] = []

    def note(request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and not _is_here(address.hostname):
            strangers.append(request.url)

    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    context.on("request", note)
    try:
        yield context.new_page()
    finally:
        context.close()
    assert not strangers, f"the page asked beyond this machine: {strangers}"


def _is_here(host: str | None) -> bool:
    """Tell whether *host* is this machine; browsers take every `*.localhost` for it."""
    return host is not None and (host in LOOPBACK or host.endswith(".localhost"))
