"""What goes wrong around a run while its card is open: busy and restarted kernels, dead engines."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.journeys import (
    LOAD,
    card,
    engine_pid,
    interrupt,
    picture,
    run_all,
    wait_until,
)
from tests.browser.lab import LabServer

pytestmark = [pytest.mark.browser, pytest.mark.docker]

#: Lines first and last, so that it can be told whether all of a log is there.
LINES = """\
  - for i in $(seq 1 500); do echo "line $i"; done
  - sleep 600
"""


def test_a_run_is_stopped_while_the_kernel_is_busy_in_another_cell(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    start = f"%%dstack task --name busy -y\ncommands:\n{LINES}"
    notebook = lab.notebook(page, "busy.ipynb", [LOAD, start, "import time; time.sleep(120)"])
    notebook.run(0)
    output = notebook.run(1)
    expect(card(output).get_by_role("region", name="Output")).to_contain_text("line 500")
    notebook.run(2, wait=False)
    card(output).get_by_role("button", name="Stop").click()
    card(output).get_by_role("button", name="Yes, stop").click()
    expect(output).to_contain_text("busy was stopped by its user")
    expect(card(output)).to_have_count(0)
    expect(notebook.cell(2).locator(".jp-InputArea-prompt")).to_have_text("[*]:")


def test_a_run_outlives_its_kernel_and_its_card_is_brought_back(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    start = f"%%dstack task --name longer -y\ncommands:\n{LINES}"
    cells = [LOAD, start, "%dstack ps", "%dstack attach longer"]
    notebook = lab.notebook(page, "longer.ipynb", cells)
    notebook.run(0)
    expect(card(notebook.run(1)).locator(".dstack-word")).to_have_text("running")
    notebook.restart_kernel()
    notebook.run(0)
    expect(notebook.run(2)).to_contain_text(re.compile(r"longer.*running"))
    picture(page, "ps")
    again = card(notebook.run(3))
    expect(again.locator(".dstack-word")).to_have_text("running")
    expect(again.locator(".dstack-lines")).to_have_text("500 lines")
    log = again.get_by_role("region", name="Output")
    expect(log).to_contain_text("line 500")
    numbers = re.findall(r"line (\d+)", log.evaluate("node => node.textContent"))
    assert numbers == [str(number) for number in range(1, 501)]
    picture(page, "attached")


def test_run_all_goes_past_a_table_and_an_interrupt_lets_the_run_go_on(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    cells = [
        LOAD,
        "%%dstack task --name later\ncommands:\n  - echo hi\n",
        "print('past the table')",
        f"%%dstack task --name waited --wait -y\ncommands:\n{LINES}",
        "print('never printed')",
        "%dstack ps",
    ]
    notebook = lab.notebook(page, "all.ipynb", cells)
    notebook.run(0)  # a page that has only just opened loses what it is told to run
    run_all(page)
    expect(notebook.output(2)).to_contain_text("past the table")
    expect(notebook.output(1).get_by_role("table")).to_be_visible()
    waited = notebook.output(3)
    expect(card(waited).get_by_role("region", name="Output")).to_contain_text("line 500")
    prompt = notebook.cell(3).locator(".jp-InputArea-prompt")
    expect(prompt).to_have_text("[*]:")
    picture(page, "waiting")
    interrupt(page)
    expect(prompt).to_have_text(re.compile(r"\[\d+\]"))
    expect(waited).to_contain_text("waited goes on")
    expect(waited).not_to_contain_text("Traceback")
    expect(card(waited).locator(".dstack-word")).to_have_text("running")
    expect(notebook.output(4)).not_to_contain_text("never printed")
    picture(page, "detached")
    expect(notebook.run(5)).to_contain_text(re.compile(r"waited.*running"))


def test_a_mistake_is_two_lines_and_run_all_stops_there(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    cells = [LOAD, "%%dstack task\ncomands:\n  - echo hi\n", "print('never printed')"]
    notebook = lab.notebook(page, "mistake.ipynb", cells)
    notebook.run(0)  # a page that has only just opened loses what it is told to run
    run_all(page)
    mistake = notebook.output(1)
    expect(mistake).to_contain_text("did you mean")
    picture(page, "mistake")
    lines = [line for line in mistake.inner_text().splitlines() if line.strip()]
    assert len(lines) <= 5, lines
    assert "Traceback" not in mistake.inner_text()
    notebook.wait_until_idle()
    expect(notebook.output(2)).to_have_text("")


def test_a_page_that_is_reloaded_shows_the_run_live_and_then_its_end(
    lab: LabServer, page: Page, docker_home: str
) -> None:
    start = (
        "%%dstack task --name looked-at-again -y\ncommands:\n  - echo before\n"
        "  - while [ ! -e /tmp/go ]; do sleep 0.1; done\n  - echo after\n"
    )
    cells = [LOAD, start, "%dstack exec looked-at-again touch /tmp/go"]
    notebook = lab.notebook(page, "again.ipynb", cells)
    notebook.run(0)
    output = notebook.run(1)
    expect(card(output).get_by_role("region", name="Output")).to_contain_text("before")
    notebook.save()
    page.reload()
    notebook.wait_until_idle()
    expect(card(output).get_by_role("region", name="Output")).to_contain_text("before")
    picture(page, "reloaded-live")
    notebook.run(2)
    expect(output).to_contain_text("looked-at-again ended by itself with exit code 0")
    expect(output).to_contain_text("after")
    picture(page, "reloaded-ended")


def test_a_card_gets_over_the_death_of_the_engine(
    lab: LabServer, page: Page, home: Path, docker_home: str
) -> None:
    start = (
        "%%dstack task --name survivor -y\ncommands:\n  - echo before\n"
        "  - while [ ! -e /tmp/go ]; do sleep 0.1; done\n  - echo after\n"
    )
    notebook = lab.notebook(
        page, "survivor.ipynb", [LOAD, start, "%dstack exec survivor touch /tmp/go"]
    )
    notebook.run(0)
    output = notebook.run(1)
    expect(card(output).get_by_role("region", name="Output")).to_contain_text("before")
    killed = engine_pid(home)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: engine_pid(home) not in (killed, None), "another engine is started")
    notebook.run(2)
    expect(card(output)).to_have_count(0)
    expect(output).to_contain_text("survivor ended by itself with exit code 0")
    expect(output.locator("pre")).to_have_text("before\nafter")
