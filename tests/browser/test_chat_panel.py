"""The panel of a chat with a model: streamed, stopped, refused, and made into a cell."""

from __future__ import annotations

import re
import sys

import pytest
from playwright.sync_api import Page, expect

from tests.browser.axe import serious_findings
from tests.browser.journeys import picture, use_theme
from tests.browser.lab import LabServer
from tests.browser.sidebar import Sidebar, in_terminal, start_model
from tests.notebook.test_services import MODEL

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PANEL = ".jp-dstack-ChatPanel"
#: A service that sleeps until somebody asks, and takes its time to wake.
SLEEPER = """\
type: service
name: sleeper
commands:
  - sleep 12
  - {python} -u {script} $DSTACK_SERVICE_PORT
port: 8000
model: echo
replicas: 0..1
scaling:
  metric: rps
  target: 1
"""


def test_a_model_is_talked_to_stopped_and_its_question_becomes_a_cell(
    lab: LabServer, page: Page
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    start_model(lab.project)
    notebook = lab.notebook(page, "mine.ipynb", ["mine = 1"])
    Sidebar(page).open().button("Try echo").click()
    chat = page.get_by_role("log", name="Conversation")
    box = page.get_by_role("textbox", name="Message to the model")
    expect(box).to_be_focused()
    page.keyboard.type("good <b>morning</b> to you")
    page.keyboard.press("Enter")
    expect(chat).to_contain_text("1: good <b>morning</b> to you")
    chat.get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == "1: good <b>morning</b> to you"

    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Instructions").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Max tokens").fill("50")
    box.fill("forever")
    page.keyboard.press("Enter")
    expect(chat).to_contain_text("4: and and and")  # with the instructions
    page.get_by_role("button", name="Stop answering").click()
    expect(chat).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    picture(page, "chat-panel-light")
    assert serious_findings(page, PANEL) == []

    page.get_by_role("button", name="Insert as code").click()
    cell = notebook.cell(1)
    expect(cell).to_contain_text("client = dstack_jupyter.openai()")
    expect(cell).to_contain_text('{"role": "system", "content": "Be brief."}')
    expect(cell).to_contain_text("temperature=0.5")
    expect(notebook.cell(0)).to_contain_text("mine = 1")


def test_a_sleeping_model_is_waited_for_and_a_gone_one_says_what_to_do(
    lab: LabServer, page: Page
) -> None:
    script = lab.project / "echo_model.py"
    script.write_text(MODEL)
    words = ["-f", "-", "-y", "-d", "--instance-type", "process", "--no-files"]
    text = SLEEPER.format(python=sys.executable, script=script)
    in_terminal(lab.project, "apply", *words, text=text)
    page.goto(f"{lab.url}/lab?reset&token={lab.token}")
    Sidebar(page).open().button("Try echo").click()
    chat = page.get_by_role("log", name="Conversation")
    box = page.get_by_role("textbox", name="Message to the model")
    box.fill("wake up")
    page.keyboard.press("Enter")
    expect(chat).to_contain_text(re.compile(r"Waiting for a replica, \d+ s"))
    picture(page, "chat-panel-waiting")
    expect(chat).to_contain_text("1: wake up")
    expect(chat).not_to_contain_text("Waiting for a replica")

    in_terminal(lab.project, "stop", "-y", "sleeper")
    expect(Sidebar(page).row("sleeper")).to_contain_text("terminated")
    use_theme(page, "JupyterLab Dark")
    box.fill("still there?")
    page.keyboard.press("Enter")
    expect(chat.get_by_role("alert")).to_contain_text("echo")
    expect(chat.get_by_role("button", name="Try again")).to_be_visible()
    picture(page, "chat-panel-dark")
    assert serious_findings(page, PANEL) == []
    page.get_by_role("button", name="New chat").click()
    expect(chat).not_to_contain_text("wake up")
