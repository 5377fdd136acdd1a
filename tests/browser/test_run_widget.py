"""The run's card in a real browser, on a plain page: what is drawn, and how Stop travels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from playwright.sync_api import Page, expect

from dstack_engine.records.events import Progress, Stream
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.sightings import GpuUsage, Usage
from dstack_jupyter.widgets.output import Output
from dstack_jupyter.widgets.run import RunCard
from dstack_jupyter.widgets.states import milliseconds, run_state
from tests.widgets.page import WidgetPage
from tests.widgets.samples import a_run, frames_of
from tests.widgets.screens import SCREENS

pytestmark = pytest.mark.browser
NOW = datetime(2026, 11, 21, 12, 1, tzinfo=timezone.utc)


def a_card(
    page: Page, view: RunView, *, answer: int | None = None, dark: bool = False
) -> WidgetPage:
    """Open a page with the card of *view*, and the page's clock at noon and a minute."""
    page.clock.install(time=NOW)
    shown = WidgetPage(page, answer=answer)
    state: Mapping[str, object] = {"key": "k", "run": run_state(view, NOW)}
    shown.show(str(RunCard._esm), str(RunCard._css), state, dark=dark)
    shown.arrive({"type": "beat", "now": milliseconds(NOW)})
    return shown


def printed(shown: WidgetPage, output: Output, *pieces: bytes | tuple[Stream, bytes]) -> None:
    """Let the run print *pieces*."""
    output.take(frames_of(*pieces))
    while message := output.message():
        shown.arrive(message)


def test_a_running_card_has_steps_ports_use_and_ticking_times(page: Page) -> None:
    view = a_run()
    shown = a_card(page, view)
    usage = Usage(NOW, 1.4, 3.2, (GpuUsage("x", 0.87, 40),))
    shown.change("run", run_state(view, NOW, None, usage))
    card = page.get_by_role("group", name="Run wet-fox-1")
    expect(card.get_by_role("status")).to_have_text("wet-fox-1 is running.")
    expect(card.get_by_role("listitem").and_(page.locator("[aria-current=step]"))).to_contain_text(
        "Running"
    )
    expect(card.get_by_role("link")).to_have_attribute("href", "http://localhost:8000")
    expect(card).to_contain_text("CPU 1.4 of 4")
    expect(card).to_contain_text("GPU 0 87 % · 40GB")
    expect(card).to_contain_text("1m · $0.06 · $3.60/h")
    shown.page.clock.run_for(10_000)
    expect(card).to_contain_text("1m 10s · $0.07 · $3.60/h")


def test_pulling_shows_how_far_it_is(page: Page) -> None:
    view = a_run(RunStatus.PROVISIONING)
    shown = a_card(page, view)
    progress = Progress(view.jobs[0].id, "pull", 0.42, "python:3.12")
    shown.change("run", run_state(view, NOW, progress))
    expect(page.get_by_role("progressbar", name="Pulling")).to_have_attribute("value", "0.42")
    expect(page.locator("[aria-current=step]")).to_contain_text("42 % python:3.12")


def test_the_browsers_screen_agrees_with_the_terminals(page: Page) -> None:
    a_card(page, a_run())
    for case in SCREENS:
        pieces = [[str(stream), list(payload)] for stream, payload in case.pieces]
        texts = page.evaluate(
            """(pieces) => {
              const whole = new module.LogScreen(), bytewise = new module.LogScreen();
              for (const [stream, bytes] of pieces) {
                whole.feed(stream, Uint8Array.from(bytes));
                if (stream === "cut") bytewise.feed(stream, Uint8Array.from(bytes));
                else for (const byte of bytes) bytewise.feed(stream, Uint8Array.from([byte]));
              }
              return [whole.text, bytewise.text];
            }""",
            pieces,
        )
        assert texts == [case.shows, case.shows], case.name


def test_progress_bars_stay_one_line_and_colours_are_drawn(page: Page) -> None:
    shown = a_card(page, a_run())
    output = Output()
    printed(shown, output, b"start\n", (Stream.STDERR, b"\r 1% \xe2\x96"))
    printed(shown, output, (Stream.STDERR, b"\x88"), (Stream.STDERR, b"\r\x1b[31m99%\x1b[0m\n"))
    printed(shown, output, b"<b>&amp;</b>")
    log = page.get_by_role("region", name="Output")
    page.clock.run_for(100)
    expect(log).to_have_text("start\n99% █\n<b>&amp;</b>", use_inner_text=True)
    red = log.get_by_text("99%").evaluate("node => getComputedStyle(node).color")
    assert red == "rgb(194, 54, 45)"


def test_a_view_opened_later_and_a_repeated_message_show_each_line_once(page: Page) -> None:
    shown = a_card(page, a_run())
    output = Output()
    output.take(frames_of(b"one\n"))
    first = output.message()
    assert first is not None
    shown.arrive(first)
    shown.arrive(first)
    shown.arrive(output.reset())
    printed(shown, output, b"two\n")
    page.evaluate("void open_view(document.body)")
    page.clock.run_for(100)
    for log in page.get_by_role("region", name="Output").all():
        expect(log).to_have_text("one\ntwo\n", use_inner_text=True)
    assert page.get_by_role("region", name="Output").count() == 2


def test_a_page_opened_in_the_middle_begins_with_the_kernels_tail(page: Page) -> None:
    output = Output()
    output.take(frames_of(b"one\n\x1b[32m"))
    output.message()
    shown = a_card(page, a_run())
    assert shown.sent == [{"type": "hello", "at": 0}]
    shown.arrive(output.reset())
    printed(shown, output, b"green")
    page.clock.run_for(100)
    log = page.get_by_role("region", name="Output")
    expect(log).to_have_text("one\ngreen", use_inner_text=True)
    assert "color" in str(log.get_by_text("green").get_attribute("style"))


def test_a_hundred_thousand_lines_do_not_stop_the_page(page: Page) -> None:
    shown = WidgetPage(page)
    state = {"key": "k", "run": run_state(a_run(), NOW)}
    shown.show(str(RunCard._esm), str(RunCard._css), state)
    page.evaluate(
        """() => {
          window.gap = 0;
          let last = performance.now();
          setInterval(() => {
            const now = performance.now();
            window.gap = Math.max(window.gap, now - last);
            last = now;
          }, 5);
        }"""
    )
    page.evaluate(
        """() => {
          const encoder = new TextEncoder();
          let at = 0;
          for (let part = 0; part < 10; part += 1) {
            let text = "";
            for (let line = 0; line < 11_001; line += 1) {
              text += `step ${part * 11_001 + line} \\x1b[32mloss\\x1b[0m 0.123 and more words\\n`;
            }
            const bytes = encoder.encode(text);
            model.tell("msg:custom", { type: "log", at, frames: [["stdout", bytes.length]] },
              [new DataView(bytes.buffer)]);
            at += bytes.length;
          }
        }"""
    )
    page.wait_for_function(
        "document.querySelector('.dstack-lines').textContent === '110,010 lines'", polling=100
    )
    page.wait_for_function(
        "document.querySelector('.dstack-log-body').lastChild.textContent.includes('step 110009')"
    )
    log = page.locator(".dstack-log")
    assert page.locator(".dstack-log-earlier").get_attribute("hidden") is None
    kept = int(str(log.get_attribute("data-lines")))
    assert 100_000 <= kept <= 100_201
    assert page.evaluate("document.querySelectorAll('.dstack-log-chunk').length") < 510
    at_end = "n => n.scrollHeight - n.scrollTop - n.clientHeight < 30"
    page.wait_for_function(f"({at_end})(document.querySelector('.dstack-log'))")
    # Frozen would be seconds: drawing all of it at once takes that long.
    assert page.evaluate("gap") < 1_000

    log.evaluate("n => { n.scrollTop = 1000; }")
    follow = page.get_by_role("button", name="↓ Follow")
    expect(follow).to_be_visible()
    follow.click()
    expect(follow).to_be_hidden()
    page.wait_for_function(f"({at_end})(document.querySelector('.dstack-log'))")


def test_stop_asks_once_more_and_goes_to_the_jupyter_server(page: Page) -> None:
    shown = a_card(page, a_run(), answer=200)
    page.context.add_cookies([{"name": "_xsrf", "value": "x|1", "url": "http://localhost:8"}])
    page.get_by_role("button", name="Stop").click()
    assert not shown.posted
    with page.expect_response("**/stop"):
        page.get_by_role("button", name="Yes, stop").click()
    ((url, headers, body),) = shown.posted
    assert url == "http://localhost:8/user/me/dstack-jupyter/runs/wet-fox-1/stop"
    assert (headers["x-xsrftoken"], headers["authorization"]) == ("x|1", "token t0k3n")
    assert body == {"abort": False, "id": "r1"}
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    expect(page.get_by_role("button", name="Abort")).to_be_enabled()
    assert shown.sent == [{"type": "hello", "at": 0}]


@pytest.mark.parametrize("answer", [None, 404], ids=["no server", "server without us"])
def test_stop_goes_to_the_kernel_where_the_server_cannot(page: Page, answer: int | None) -> None:
    shown = a_card(page, a_run(), answer=answer)
    page.get_by_role("button", name="Abort").click()
    page.get_by_role("button", name="Yes, abort").click()
    expect(page.get_by_role("note")).to_contain_text("Asked the kernel")
    assert shown.sent[1:] == [{"type": "stop", "abort": True}]
    shown.arrive({"type": "stop-answer", "ok": False, "text": "wet-fox-1 has ended"})
    expect(page.get_by_role("note")).to_have_text("wet-fox-1 has ended")
    expect(page.get_by_role("button", name="Abort")).to_be_enabled()


def test_keeping_it_running_stops_nothing_and_gives_the_focus_back(page: Page) -> None:
    shown = a_card(page, a_run(), answer=200)
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Yes, stop")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    assert not shown.posted


def test_a_silent_kernel_is_said_and_forgotten_when_it_speaks_again(page: Page) -> None:
    shown = a_card(page, a_run())
    page.clock.run_for(25_000)
    note = page.get_by_role("note")
    expect(note).to_contain_text("the run goes on; %dstack attach wet-fox-1")
    shown.arrive({"type": "beat", "now": milliseconds(NOW) + 25_000})
    page.clock.run_for(1_000)
    expect(note).to_be_hidden()


def test_an_ended_run_has_no_buttons_and_its_time_stands_still(page: Page) -> None:
    a_card(page, a_run(RunStatus.FAILED))
    expect(page.get_by_role("status")).to_have_text(
        "wet-fox-1 is failed. wet-fox-1 ended with an error (exit code 3)."
    )
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    page.clock.run_for(60_000)
    expect(page.get_by_text("1m · $0.06")).to_be_visible()


def test_what_a_run_says_is_never_markup_and_its_links_are_web_addresses(page: Page) -> None:
    evil = '<img src=x onerror="window.pwned=1">'
    view = a_run(RunStatus.FAILED)
    view = replace(view, jobs=(replace(view.jobs[0], detail=evil),))
    shown = a_card(page, view)
    state = {**run_state(view, NOW), "ports": [{"port": 1, "url": "javascript:window.pwned=1"}]}
    shown.change("run", json.loads(json.dumps(state)))
    expect(page.get_by_role("group", name="Run wet-fox-1")).to_contain_text("<img src=x")
    assert page.get_by_role("link").count() == 0
    assert page.evaluate("window.pwned") is None


def test_the_card_knows_a_dark_page_and_leaves_nothing_behind(page: Page) -> None:
    a_card(page, a_run(), dark=True)
    page.clock.run_for(100)
    expect(page.get_by_role("group", name="Run wet-fox-1")).to_have_attribute("data-theme", "dark")
    page.evaluate("close_view()")
    assert page.evaluate("model.listeners.map(([name]) => name)") == ["msg:custom"]
