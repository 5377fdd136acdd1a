"""From a cell to an app and back: offers are chosen, a run is seen, used and stopped, and stays."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.journeys import LOAD, card, picture, saved_outputs, use_theme
from tests.browser.lab import LabServer

pytestmark = [pytest.mark.browser, pytest.mark.docker]

APP = """\
%%dstack task --name web-app
image: {image}
commands:
  - echo "hello from the app" > index.html
  - python -u -m http.server 8000
ports:
  - "*:8000"
env:
  - API_TOKEN=very-secret-word
"""


def test_an_app_is_chosen_seen_used_and_stopped(
    lab: LabServer, page: Page, home: Path, docker_home: str
) -> None:
    notebook = lab.notebook(page, "app.ipynb", [LOAD, APP.format(image=docker_home)])
    notebook.run(0)
    table = notebook.run(1)
    expect(table.get_by_role("table")).to_contain_text("local (docker)")
    table.get_by_text("1 refused — why").click()
    expect(table.get_by_text(re.compile(r"local \(process\)"))).to_be_visible()
    picture(page, "offers-light")
    table.get_by_role("row", name=re.compile(r"local \(docker\)")).click()
    table.get_by_role("button", name="Submit on the chosen offer").click()

    output = notebook.output(1)
    live = card(output)
    expect(live.locator(".dstack-word")).to_have_text("running")
    expect(live.locator(".dstack-step.dstack-done")).to_have_count(3)
    expect(live.get_by_role("region", name="Output")).to_contain_text("Serving HTTP on")
    with page.expect_popup() as opening:
        live.get_by_role("link", name=re.compile(r"localhost:\d+")).click()
    app = opening.value
    expect(app.get_by_text("hello from the app")).to_be_visible()
    app.close()
    expect(live.get_by_role("region", name="Output")).to_contain_text('"GET / HTTP/1.1" 200')
    picture(page, "running-light")
    use_theme(page, "JupyterLab Dark")
    expect(live).to_have_attribute("data-theme", "dark")
    picture(page, "running-dark")

    live.get_by_role("button", name="Stop").click()
    expect(live.get_by_role("group", name="Confirm")).to_be_visible()
    picture(page, "confirm-dark")
    live.get_by_role("button", name="Yes, stop").click()
    expect(card(output)).to_have_count(0)
    expect(output).to_contain_text("terminated")
    expect(output).to_contain_text("was stopped by its user")
    expect(output).to_contain_text('"GET / HTTP/1.1" 200')
    picture(page, "stopped-dark")

    notebook.save()
    (saved,) = saved_outputs(lab.project / "app.ipynb", 1)
    assert set(saved.data) == {"text/html", "text/plain"}
    token = json.loads((home / "engine.json").read_text())["token"]
    for secret in ("very-secret-word", token):
        assert secret not in json.dumps(saved)
    notebook.restart_kernel()
    page.reload()
    notebook.wait_until_idle()
    expect(output).to_contain_text("was stopped by its user")
    picture(page, "reloaded")


def test_offers_are_sorted_and_chosen_by_keyboard_alone(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    cell = "%%dstack task\ncommands:\n  - echo chosen by keyboard\n"
    notebook = lab.notebook(page, "keyboard.ipynb", [LOAD, cell])
    notebook.run(0)
    table = notebook.run(1)
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(2)
    heading = table.get_by_role("columnheader", name="Instance")
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "ascending")
    expect(rows.first).to_contain_text("local (docker)")
    page.keyboard.press("Enter")
    expect(heading).to_have_attribute("aria-sort", "descending")
    expect(rows.first).to_contain_text("local (process)")
    for _ in range(4):  # the headings to the right, and the first row's box
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(rows.first.get_by_role("checkbox")).to_be_checked()
    picture(page, "keyboard")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    output = notebook.output(1)
    expect(output.get_by_role("table")).to_have_count(0)
    expect(output).to_contain_text("Done")
    expect(output).to_contain_text("local (process)")
    expect(output.locator("pre")).to_have_text("chosen by keyboard")
    picture(page, "done")


def test_nothing_is_started_by_a_choice_that_is_cancelled(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    cells = [LOAD, "%%dstack task -o run\ncommands:\n  - echo hi\n", "print(run)", "%dstack ps -a"]
    notebook = lab.notebook(page, "cancel.ipynb", cells)
    notebook.run(0)
    notebook.run(1).get_by_role("button", name="Cancel").click()
    expect(notebook.output(1)).to_contain_text("Cancelled: nothing was submitted.")
    expect(notebook.output(1).get_by_role("button")).to_have_count(0)
    picture(page, "cancelled")
    expect(notebook.run(2)).to_contain_text("it was cancelled in the table of its cell")
    expect(notebook.run(3)).to_contain_text("No runs.")
