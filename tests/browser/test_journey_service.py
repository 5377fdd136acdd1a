"""A service from a cell: chosen, seen live, opened, tried, stopped; no page has the token."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, WebSocket, expect

from dstack_engine.home import Home
from dstack_engine.launcher import connect
from tests.browser.journeys import LOAD, card, picture, saved_outputs, use_theme, wait_until
from tests.browser.lab import LabServer
from tests.notebook.test_services import MODEL

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WEB = f"""\
%%dstack service --name web --instance-type process --no-files
commands:
  - mkdir -p page
  - echo "hello from $DSTACK_SERVICE_PORT" > page/index.html
  - {sys.executable} -u -m http.server --directory page --bind 127.0.0.1 $DSTACK_SERVICE_PORT
port: 8000
auth: false
replicas: 2
"""
PARROT = """\
%%dstack service --name parrot -y --wait --instance-type process --no-files
commands:
  - {python} -u {script} $DSTACK_SERVICE_PORT
port: 8000
model: echo
"""


def token_of(home: Path) -> str:
    """Return the token of the test's own home."""
    with connect(Home(home)) as client:
        return client.token()


def test_a_web_service_is_chosen_opened_tried_and_stopped(
    lab: LabServer, page: Page, home: Path
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    notebook = lab.notebook(page, "web.ipynb", [LOAD, WEB, "import time; time.sleep(600)"])
    notebook.run(0)
    table = notebook.run(1)
    table.get_by_role("button", name="Submit").click()

    live = card(notebook.output(1))
    expect(live.locator(".dstack-sentence")).to_have_text("2 of 2 replicas are ready")
    expect(live.locator(".dstack-word")).to_have_text("ready")
    expect(live.get_by_role("row").filter(has_text="● ready")).to_have_count(2)
    with page.expect_popup() as opening:
        live.get_by_role("link", name=re.compile(r"web\.localhost:\d+")).click()
    web = opening.value
    expect(web.get_by_text("hello from")).to_be_visible()
    web.close()

    live.get_by_text("Try it: GET").click()
    live.get_by_label("Path").fill("/nowhere")
    page.keyboard.press("Enter")
    expect(live.get_by_role("region", name="Answer")).to_contain_text("404")
    live.get_by_label("Path").fill("/")
    live.get_by_role("button", name="GET", exact=True).click()
    expect(live.get_by_role("region", name="Answer")).to_contain_text("200 OK")
    expect(live.get_by_role("region", name="Answer")).to_contain_text("hello from")
    plot = live.get_by_role("img", name=re.compile(r"requests.s over .* at most 0\.[1-9]"))
    expect(plot).to_be_visible()
    expect(live.locator(".dstack-traffic")).to_contain_text(re.compile(r"requests[3-9]errors"))
    live.get_by_label("Output of").select_option(label="replica 1")
    expect(live.get_by_role("region", name="Output")).to_contain_text("Serving HTTP on")
    live.get_by_role("button", name="Copy address").click()
    copied = str(page.evaluate("navigator.clipboard.readText()"))
    assert re.fullmatch(r"http://web\.localhost:\d+/", copied)

    picture(page, "service-light")
    use_theme(page, "JupyterLab Dark")
    expect(live).to_have_attribute("data-theme", "dark")
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)
    picture(page, "service-dark")

    notebook.run(2, wait=False)  # the kernel is busy from here on
    live.get_by_role("button", name="Stop", exact=True).click()
    live.get_by_role("button", name="Yes, stop").click()
    output = notebook.output(1)
    expect(output).to_contain_text("web was stopped by its user.")
    expect(card(output)).to_have_count(0)
    expect(output).to_contain_text("Serving HTTP on")
    picture(page, "service-stopped")
    notebook.save()
    (left,) = saved_outputs(lab.project / "web.ipynb", 1)
    assert set(left.data) == {"text/html", "text/plain"}


def test_a_model_is_talked_to_in_its_card_and_the_token_reaches_no_page_and_no_file(
    lab: LabServer, page: Page, home: Path
) -> None:
    frames: list[str | bytes] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: frames.append(frame))
        socket.on("framesent", lambda frame: frames.append(frame))

    page.on("websocket", listen)
    script = lab.project / "echo_model.py"
    script.write_text(MODEL)
    cells = [LOAD, PARROT.format(python=sys.executable, script=script), "%%dstack chat echo\nHi!"]
    cells += ["import dstack_jupyter\ndstack_jupyter.openai(), dstack_jupyter.token()"]
    notebook = lab.notebook(page, "parrot.ipynb", cells)
    notebook.run(0)
    live = card(notebook.run(1))
    expect(live.locator(".dstack-word")).to_have_text("ready")
    live.get_by_text("Try it: chat with echo").click()
    box = live.get_by_label("Message to the model")
    box.fill("good <b>morning</b> to you")
    page.keyboard.press("Enter")
    talk = live.get_by_role("log", name="Conversation")
    expect(talk).to_contain_text("1: good <b>morning</b> to you")
    expect(live.get_by_role("button", name="New chat")).to_be_visible()
    box.fill("forever")
    page.keyboard.press("Enter")
    expect(talk).to_contain_text("3: and and and")
    picture(page, "service-chat")
    live.get_by_role("button", name="Stop answering").click()
    expect(live.get_by_text("Stopped.")).to_be_visible()
    expect(live.get_by_role("region", name="Output")).to_contain_text("the asker went away")

    expect(notebook.run(2)).to_contain_text("1: Hi!")
    expect(notebook.run(3)).to_contain_text("<token: hidden")
    notebook.save()
    token = token_of(home)
    assert token not in (lab.project / "parrot.ipynb").read_text()
    assert token not in page.content()
    heard = [frame if isinstance(frame, bytes) else frame.encode() for frame in frames]
    wait_until(lambda: any(b"forever" in frame for frame in heard), "the page was listened to")
    assert not any(token.encode() in frame for frame in heard)

    page.reload()
    notebook.wait_until_idle()
    again = card(notebook.output(1))
    expect(again.locator(".dstack-word")).to_have_text("ready")
    expect(again.get_by_role("region", name="Output")).to_contain_text("the asker went away")
    page.set_viewport_size({"width": 600, "height": 1000})
    picture(page, "service-narrow")
    again.get_by_role("button", name="Abort").click()
    again.get_by_role("button", name="Yes, abort").click()
    expect(again.locator(".dstack-word")).to_have_text("terminated")
