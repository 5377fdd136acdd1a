"""A web app behind the gateway: Streamlit's, whose pages live on a WebSocket."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import websocket
from playwright.sync_api import Browser, expect

from tests.browser.chromium import loopback_page
from tests.browser.journeys import picture
from tests.browser.lab import LabServer
from tests.hosts.commands import REPOSITORY
from tests.journeys.engines import EngineProcess, until
from tests.journeys.visitors import PATIENCE, Visitors

NOTEBOOKS = REPOSITORY / "notebooks"
APP = NOTEBOOKS / "squares_app.py"

SQUARES = f"""
name: squares
commands:
  - $PYTHON -m streamlit run {APP}
    --server.address 127.0.0.1
    --server.port $DSTACK_SERVICE_PORT
    --server.headless true
    --browser.gatherUsageStats false
port: 8501
probes: [{{url: /_stcore/health, interval: 1s}}]
"""

#: What the page's own script sends first, in Streamlit's form: "run the app".
RERUN = b"Z\x00"


@pytest.fixture
def visitors(engine: EngineProcess, extra_python: Path) -> Visitors:
    """Visitors of an engine that runs."""
    engine.start()
    return Visitors(engine)


def start(visitors: Visitors, python: Path, more: str = "") -> str:
    """Start the app; return its name once it is ready."""
    name = visitors.submit(f"{SQUARES}env: {{PYTHON: {python}}}\n{more}").name
    visitors.until_ready(name)
    return name


def messages(socket: websocket.WebSocket) -> Iterator[bytes]:
    """Yield what the app sends over its WebSocket."""
    while True:
        kind, data = socket.recv_data()
        assert kind == websocket.ABNF.OPCODE_BINARY, (kind, data)
        yield data


@pytest.mark.slow
def test_an_app_is_driven_over_its_websocket(visitors: Visitors, extra_python: Path) -> None:
    name = start(visitors, extra_python)
    address = visitors.url(name, "/_stcore/stream").replace("http:", "ws:")
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        websocket.create_connection(address, timeout=PATIENCE)
    assert refused.value.status_code == 401
    socket = websocket.create_connection(
        address, timeout=PATIENCE, header=visitors.authorization, subprotocols=["streamlit"]
    )
    try:
        socket.send_binary(RERUN)
        sent = messages(socket)
        assert any(b"Squares" in message for message in sent)
        assert any(b"3 squared is 9" in message for message in sent)
        until(lambda: in_flight(visitors, name) == 1, "the open WebSocket to be counted")
    finally:
        socket.close()
    until(lambda: in_flight(visitors, name) == 0, "the closed one to be counted no more")


def in_flight(visitors: Visitors, name: str) -> int | None:
    """Return how many requests of *name* are being answered, as the gateway told last."""
    report = visitors.report(name)
    return None if report is None else report.in_flight


@pytest.mark.browser
def test_an_app_is_used_in_a_browser_by_its_own_name(
    visitors: Visitors, extra_python: Path, browser: Browser, tmp_path: Path
) -> None:
    """A browser sends no token, so the service asks for none. A file goes up by POST or PUT."""
    name = start(visitors, extra_python, "auth: false\n")
    (tmp_path / "upload.bin").write_bytes(bytes(3_000_000))
    with loopback_page(browser) as page:
        page.goto(f"http://{name}.localhost:{visitors.port}/")
        expect(page.get_by_role("heading", name="Squares")).to_be_visible()
        expect(page.get_by_text("3 squared is 9")).to_be_visible()
        number = page.get_by_label("A number")
        number.fill("12")
        number.press("Enter")
        expect(page.get_by_text("12 squared is 144")).to_be_visible()
        page.locator("input[type=file]").set_input_files(tmp_path / "upload.bin")
        expect(page.get_by_text("3000000 bytes have come")).to_be_visible()
        page.reload()
        expect(page.get_by_text("3 squared is 9")).to_be_visible()


@pytest.mark.browser
def test_an_app_is_used_inside_the_notebook_that_serves_it(
    home: Path,
    tmp_path: Path,
    extra_python: Path,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The notebook as users are given it, in JupyterLab; the app's page is a frame in a cell."""
    monkeypatch.setenv("EXTRAS", str(extra_python.parents[1]))
    home.mkdir(parents=True)
    (home / "config.yml").write_text("local: {docker: false}\n")
    lab = LabServer(tmp_path)
    shutil.copytree(NOTEBOOKS, lab.project)
    cells = nbformat.read(NOTEBOOKS / "web_app.ipynb", as_version=4).cells
    places = {cell.id: place for place, cell in enumerate(cells)}
    lab.start()
    try:
        with loopback_page(browser) as page:
            notebook = lab.open(page, "web_app.ipynb")
            for cell in ("load", "extras", "serve-run", "frame"):
                output = notebook.run(places[cell])
            app = output.frame_locator("iframe")
            number = app.get_by_label("A number")
            number.fill("11")
            number.press("Enter")
            expect(app.get_by_text("11 squared is 121")).to_be_visible()
            picture(page, "app-in-the-notebook")
    finally:
        lab.stop()
