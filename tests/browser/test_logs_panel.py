"""The panel of a run's logs: a hundred thousand lines, live, searched, copied, kept."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from playwright.sync_api import Locator, Page, Response, expect

from tests.browser.axe import serious_findings
from tests.browser.journeys import picture, use_theme
from tests.browser.lab import LabServer
from tests.browser.sidebar import Sidebar, in_terminal, log_of, start

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LINES = 100_000
PANEL = ".jp-dstack-LogPanel"
PAINT = r"""
import time
print("\033[1;31mred and bold\033[0m \033[42mon green\033[0m plain")
for percent in (10, 50, 90, 100):
    print(f"\r{percent:3}% of it", end="", flush=True)
    time.sleep(0.02)
print("\n<b>no markup</b>")
"""
TWIN = """
import os
from http.server import HTTPServer, SimpleHTTPRequestHandler

print(os.environ["DSTACK_JOB_ID"].partition("/")[0], "listens", flush=True)
HTTPServer(("", int(os.environ["DSTACK_SERVICE_PORT"])), SimpleHTTPRequestHandler).serve_forever()
"""
PAINTED = "red and bold on green plain\n100% of it\n<b>no markup</b>"


def start_painter(project: Path) -> None:
    """Start the run `paint`, which prints colours and a progress bar."""
    (project / "paint.py").write_text(PAINT)
    start(project, "paint", f"{sys.executable} {project / 'paint.py'}")


def wait_for(file: Path) -> str:
    """Return a command that waits until *file* is there."""
    return f"while [ ! -e {file} ]; do sleep 0.1; done"


def open_logs(lab: LabServer, page: Page, name: str) -> Locator:
    """Open the page and a run's logs from the sidebar; return the output."""
    page.goto(f"{lab.url}/lab?reset&token={lab.token}")
    Sidebar(page).open().button(f"Logs of {name}").click()
    log = log_of(page, name)
    expect(log).to_be_visible()
    return log


def is_saving_of_layout(response: Response) -> bool:
    """Tell whether the page has kept which panels are open."""
    return response.request.method == "PUT" and "/api/workspaces/" in response.url


def line_numbers(log: Locator) -> list[int]:
    """Return the numbers of the lines that are drawn and in sight."""
    shown: list[str] = log.evaluate(
        """node => {
          const box = node.getBoundingClientRect();
          return Array.from(node.querySelectorAll('[data-line]')).filter(line => {
            const { top, bottom } = line.getBoundingClientRect();
            return bottom > box.top && top < box.bottom;
          }).map(line => line.textContent);
        }"""
    )
    found = (re.fullmatch(r"line (\d+)", text) for text in shown)
    return [int(match[1]) for match in found if match]


def test_a_hundred_thousand_lines_are_scrolled_to_both_ends_and_followed(
    lab: LabServer, page: Page, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    start(lab.project, "long", f"seq -f 'line %g' 1 {LINES}", wait_for(go), "echo and this")
    log = open_logs(lab, page, "long")
    follow = page.get_by_role("checkbox", name="Follow")
    expect(page.get_by_text("100,000 lines", exact=True)).to_be_visible()
    expect(log).to_contain_text(f"line {LINES}")
    expect(follow).to_be_checked()
    assert log.locator("[data-line]").count() < 200  # only what is in sight is drawn

    log.press("Home")
    expect(log).to_contain_text(re.compile(r"line 1(?!\d)"))
    expect(follow).not_to_be_checked()
    assert line_numbers(log)[0] == 1

    log.evaluate("node => { node.scrollTop = node.scrollHeight / 2 }")
    expect(log).to_contain_text("line 50000")
    middle = line_numbers(log)
    assert middle == list(range(middle[0], middle[0] + len(middle)))
    go.touch()
    expect(page.get_by_text("100,001 lines", exact=True)).to_be_visible()
    assert line_numbers(log) == middle  # who reads is not moved

    log.press("End")
    expect(log).to_contain_text("and this")
    expect(follow).to_be_checked()
    log.hover()
    page.mouse.wheel(0, -400)
    expect(follow).not_to_be_checked()
    follow.check()
    expect(log.get_by_text("and this", exact=True)).to_be_in_viewport()
    picture(page, "logs-panel")


def test_words_are_found_by_keyboard_alone(lab: LabServer, page: Page) -> None:
    start(lab.project, "words", "seq -f 'line %g' 1 30000", "echo The End")
    log = open_logs(lab, page, "words")
    expect(log).to_contain_text("The End")
    log.focus()
    page.keyboard.press("Control+f")
    search = page.get_by_role("textbox", name="Search in the log")
    expect(search).to_be_focused()
    page.keyboard.type("line 777")
    found = page.get_by_role("search").get_by_role("status")
    expect(found).to_have_text("11 found")
    page.keyboard.press("Enter")
    expect(found).to_have_text("1 of 11")
    expect(log.locator("mark.jp-mod-current")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(found).to_have_text("2 of 11")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Shift+Enter")
    expect(found).to_have_text("11 of 11")
    page.get_by_role("button", name="Next match").click()
    expect(found).to_have_text("1 of 11")
    picture(page, "logs-panel-search")
    search.fill("nowhere to be seen")
    expect(found).to_have_text("nothing found")
    expect(page.get_by_role("button", name="Previous match")).to_be_disabled()
    search.press("Escape")
    expect(search).to_have_value("")
    expect(log).to_be_focused()


def test_colours_and_progress_bars_look_as_in_a_terminal_and_are_copied_and_kept_as_text(
    lab: LabServer, page: Page
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    start_painter(lab.project)
    log = open_logs(lab, page, "paint")
    expect(log.locator("[data-line]")).to_have_text(PAINTED.split("\n"))
    expect(log.get_by_text("red and bold", exact=True)).to_have_css("font-weight", "700")
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_text("3 lines copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == PAINTED
    with page.expect_download() as saving:
        page.get_by_role("button", name="Download").click()
    assert saving.value.suggested_filename == "paint.log"
    assert saving.value.path().read_text() == f"{PAINTED}\n"


def test_what_is_selected_is_copied_also_where_it_is_not_drawn_any_more(
    lab: LabServer, page: Page
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    start(lab.project, "many", "seq -f 'line %g' 1 5000")
    log = open_logs(lab, page, "many")
    expect(log).to_contain_text("line 5000")
    log.press("Home")
    log.get_by_text("line 2", exact=True).dblclick(position={"x": 8, "y": 5})
    log.evaluate("node => { node.scrollTop = node.scrollHeight / 2 }")
    log.get_by_text("line 2500", exact=True).click(modifiers=["Shift"], position={"x": 8, "y": 5})
    page.keyboard.press("Control+c")
    lines = str(page.evaluate("navigator.clipboard.readText()")).split("\n")
    assert (lines[:2], lines[-1]) == (["line 2", "line 3"], "line")
    assert len(lines) == 2499
    log.press("Control+a")
    page.keyboard.press("Control+c")
    assert len(str(page.evaluate("navigator.clipboard.readText()")).split("\n")) == 5000


def test_the_output_goes_on_in_a_panel_that_was_hidden_and_after_the_page_was_reloaded(
    lab: LabServer, page: Page, tmp_path: Path
) -> None:
    go, stop = tmp_path / "go", tmp_path / "stop"
    start(lab.project, "two", "echo one", wait_for(go), "echo two", wait_for(stop), "echo three")
    log = open_logs(lab, page, "two")
    expect(log).to_contain_text("one")
    page.get_by_role("button", name="New Launcher").click()
    expect(log).to_be_hidden()
    go.touch()
    with page.expect_response(is_saving_of_layout):
        page.get_by_role("tab", name="two logs").click()
    expect(log).to_have_text("onetwo")

    page.goto(f"{lab.url}/lab")
    log = log_of(page, "two")
    expect(log).to_have_text("onetwo")
    stop.touch()
    expect(log).to_have_text("onetwothree")


def test_a_run_that_printed_nothing_says_how_it_ended(lab: LabServer, page: Page) -> None:
    start(lab.project, "mute", "exit 3")
    open_logs(lab, page, "mute")
    expect(
        page.get_by_text(re.compile("mute has printed nothing: it .*exit code 3"))
    ).to_be_visible()


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_panel_is_readable_by_everybody(lab: LabServer, page: Page, theme: str) -> None:
    start_painter(lab.project)
    log = open_logs(lab, page, "paint")
    expect(log).to_contain_text("100% of it")
    if theme != "JupyterLab Light":
        use_theme(page, theme)
    page.get_by_role("textbox", name="Search in the log").fill("bold")
    expect(page.get_by_text("1 found")).to_be_visible()
    picture(page, f"logs-panel-{theme.split()[-1].lower()}")
    assert serious_findings(page, PANEL) == []
    page.set_viewport_size({"width": 640, "height": 700})
    picture(page, f"logs-panel-narrow-{theme.split()[-1].lower()}")


def test_of_a_service_one_replica_is_chosen_and_heard(lab: LabServer, page: Page) -> None:
    script = lab.project / "twin.py"
    script.write_text(TWIN)
    text = f"""
        type: service
        name: twins
        commands:
          - {sys.executable} -u {script} $DSTACK_SERVICE_PORT
        port: 8000
        replicas: 2
    """
    words = ["-f", "-", "-y", "-d", "--instance-type", "process", "--no-files"]
    in_terminal(lab.project, "apply", *words, text=dedent(text))
    log = open_logs(lab, page, "twins")
    expect(log).to_contain_text("twins-0-0 listens")
    page.get_by_role("combobox", name="Replica").select_option("replica 1")
    expect(log).to_contain_text("twins-0-1 listens")
    expect(log).not_to_contain_text("twins-0-0 listens")
    picture(page, "logs-replica")
