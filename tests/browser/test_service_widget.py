"""The service's card in a real browser, on a plain page: what is drawn, tried, copied, chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

import pytest
from playwright.sync_api import Page, expect

from dstack_engine.records.jobs import JobStatus
from dstack_engine.records.publication import ReplicaState, ServiceReport
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.records.services import Rest, ServiceState
from dstack_engine.records.updates import GatewayView
from dstack_jupyter.widgets.output import Output
from dstack_jupyter.widgets.service import ServiceCard
from dstack_jupyter.widgets.service_states import sample_of, service_state
from dstack_jupyter.widgets.states import milliseconds
from tests.browser.journeys import picture
from tests.widgets.page import WidgetPage
from tests.widgets.samples import MODEL, a_replica, a_report, a_service, frames_of

pytestmark = pytest.mark.browser
NOW = datetime(2026, 11, 21, 12, 1, tzinfo=timezone.utc)
PLACE = GatewayView(4180)


def a_card(
    page: Page,
    view: RunView,
    report: ServiceReport | None,
    *,
    answer: int | None = None,
    dark: bool = False,
    logs: tuple[str, ...] = (),
) -> WidgetPage:
    """Open a page with the card of *view*, and the page's clock at noon and a minute."""
    page.clock.install(time=NOW)
    shown = WidgetPage(page, answer=answer)
    state: Mapping[str, object] = {
        "key": "k",
        "service_state": json.loads(json.dumps(service_state(view, NOW, report, PLACE, logs))),
    }
    shown.show(str(ServiceCard._esm), str(ServiceCard._css), state, dark=dark)
    shown.arrive({"type": "beat", "now": milliseconds(NOW)})
    return shown


def change(shown: WidgetPage, view: RunView, report: ServiceReport | None, *logs: str) -> None:
    """Let the service have changed."""
    state = service_state(view, NOW, report, PLACE, logs)
    shown.change("service_state", json.loads(json.dumps(state)))


def samples(count: int = 200) -> dict[str, object]:
    """Traffic that comes and goes, one sample a second until now."""
    found = []
    for second in range(count):
        report = a_report()
        at = NOW - timedelta(seconds=count - second)
        sample = sample_of(report, at)
        sample[1] = 10 + 8 * ((second // 20) % 3)
        sample[2] = 0.05 + 0.01 * (second % 7)
        found.append(sample)
    return {"type": "samples", "samples": found, "all": True}


def printed(shown: WidgetPage, log: str, *pieces: bytes) -> None:
    """Let the replica whose log is *log* print *pieces*."""
    output = Output()
    output.take(frames_of(*pieces))
    message = output.message()
    assert message is not None
    shown.arrive(type(message)({**message.content, "log": log}, message.payload))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_ready_service_shows_address_replicas_traffic_and_plots(page: Page, dark: bool) -> None:
    view = a_service(text=MODEL)
    logs = tuple(job.container for job in view.jobs)
    shown = a_card(page, view, a_report(), dark=dark, logs=logs)
    shown.arrive(samples())
    printed(shown, logs[0], b"INFO: Uvicorn running on http://0.0.0.0:8000\n")
    page.clock.run_for(1_100)
    card = page.get_by_role("group", name="Service chat")
    expect(card.get_by_role("status").first).to_have_text(
        "chat is ready. 3 of 3 replicas are ready"
    )
    link = card.get_by_role("link")
    expect(link).to_have_attribute("href", "http://chat.localhost:4180/")
    expect(card).to_contain_text("http://127.0.0.1:4180/services/chat/")
    expect(card).to_contain_text("model tiny (OpenAI) http://127.0.0.1:4180/v1")
    expect(card.locator(".dstack-traffic")).to_contain_text("12")
    expect(card.get_by_role("row")).to_have_count(4)
    expect(card.get_by_role("row").nth(1)).to_contain_text("● ready")
    plot = card.get_by_role("img", name="requests/s over the last five minutes: at most 26")
    expect(plot).to_be_visible()
    assert str(plot.locator(".dstack-line").get_attribute("d")).count("H") > 100
    expect(card).to_have_attribute("data-theme", "dark" if dark else "light")
    card.get_by_text("Try it: chat with tiny").click()
    picture(page, f"service-card-{'dark' if dark else 'light'}")
    page.set_viewport_size({"width": 420, "height": 1000})
    picture(page, f"service-card-narrow-{'dark' if dark else 'light'}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_a_crash_loop_says_why_and_counts_down_to_the_next_start(page: Page) -> None:
    rest = Rest(0, NOW + timedelta(seconds=12), "exit code 1: no module named serve")
    failed = a_replica(0, JobStatus.FAILED)
    view = a_service(failed, text=MODEL, state=ServiceState(desired=1, resting=(rest,)))
    shown = a_card(page, view, ServiceReport("chat", "s1"), logs=(failed.container,))
    printed(shown, failed.container, b"Traceback: no module named serve\n")
    page.clock.run_for(100)
    card = page.get_by_role("group", name="Service chat")
    expect(card.locator(".dstack-sentence")).to_have_text(
        "replica 0 failed: exit code 1: no module named serve"
    )
    expect(card.get_by_role("row").nth(1)).to_contain_text("starts again in 12s")
    expect(card.get_by_role("region", name="Output")).to_contain_text("Traceback")
    picture(page, "service-card-failing")
    page.clock.run_for(5_000)
    expect(card.get_by_role("row").nth(1)).to_contain_text("starts again in 7s")


def test_a_sleeping_service_says_what_wakes_it(page: Page) -> None:
    view = a_service(text=MODEL.replace("3", "0..3\nscaling: {metric: rps, target: 1}"))
    view = type(view)(view.run, ())
    view = a_service(text=MODEL, state=ServiceState(desired=0))
    view = type(view)(view.run, ())
    a_card(page, view, ServiceReport("chat", "s1"))
    card = page.get_by_role("group", name="Service chat")
    expect(card.locator(".dstack-word")).to_have_text("asleep")
    expect(card).to_contain_text("the first request starts one")
    expect(card.get_by_role("table")).to_be_hidden()


def test_addresses_are_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    a_card(page, a_service(), a_report())
    page.get_by_role("button", name="Copy for programs").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "http://127.0.0.1:4180/services/chat/"
    page.get_by_role("button", name="Copy address").click()
    assert page.evaluate("navigator.clipboard.readText()") == "http://chat.localhost:4180/"


def test_the_output_of_a_replica_is_chosen_and_goes_on_with_its_next_attempt(page: Page) -> None:
    view = a_service()
    logs = tuple(job.container for job in view.jobs)
    shown = a_card(page, view, a_report(), logs=logs)
    for number, log in enumerate(logs):
        printed(shown, log, b"I am replica %d\n" % number)
    output = page.get_by_role("region", name="Output")
    page.clock.run_for(100)
    expect(output).to_have_text("I am replica 0\n", use_inner_text=True)
    page.get_by_label("Output of").select_option(label="replica 1")
    page.clock.run_for(100)
    expect(output).to_have_text("I am replica 1\n", use_inner_text=True)

    failed, again = a_replica(1, JobStatus.FAILED), a_replica(1, attempt=2)
    later = a_service(view.jobs[0], failed, view.jobs[2], again)
    change(shown, later, a_report(), *logs, again.container)
    printed(shown, again.container, b"I am here again\n")
    page.clock.run_for(100)
    expect(output).to_have_text("I am here again\n", use_inner_text=True)
    page.get_by_label("Output of").select_option(label="replica 1, attempt 1 (ended)")
    page.clock.run_for(100)
    expect(output).to_have_text("I am replica 1\n", use_inner_text=True)


def asked(shown: WidgetPage) -> dict[str, object]:
    """Return what the page asked of the kernel last."""
    said = shown.sent[-1]
    assert isinstance(said, dict)
    return said


def test_a_path_is_tried_and_its_answer_is_text_and_never_markup(page: Page) -> None:
    shown = a_card(page, a_service(), a_report())
    page.get_by_text("Try it: GET").click()
    page.get_by_label("Path").fill("/health")
    page.keyboard.press("Enter")
    question = asked(shown)
    assert (question["type"], question["path"]) == ("try", "/health")
    shown.arrive({"type": "try-begun", "id": question["id"]})
    expect(page.get_by_text("Waiting for the answer")).to_be_visible()
    shown.arrive(
        {
            "type": "try-answer",
            "id": question["id"],
            "status": 200,
            "reason": "OK",
            "headers": [["Content-Type", "text/html"]],
            "body": "<img src=x onerror='window.pwned=1'>",
            "cut": True,
            "seconds": 0.0123,
        }
    )
    shown.arrive({"type": "try-end", "id": question["id"], "error": ""})
    answer = page.get_by_role("region", name="Answer")
    expect(answer).to_contain_text("200 OK in 12 ms")
    expect(answer).to_contain_text("<img src=x")
    expect(answer).to_contain_text("there is more of it")
    expect(page.get_by_role("button", name="GET")).to_be_enabled()
    picture(page, "service-card-try-get")
    assert page.evaluate("window.pwned") is None


def test_a_chat_streams_remembers_and_can_be_stopped(page: Page) -> None:
    shown = a_card(page, a_service(text=MODEL), a_report())
    page.get_by_text("Try it: chat with tiny").click()
    box = page.get_by_label("Message to the model")
    box.fill("Hello?")
    page.keyboard.press("Enter")
    first = asked(shown)
    assert first["messages"] == [{"role": "user", "content": "Hello?"}]
    shown.arrive({"type": "try-begun", "id": first["id"]})
    for piece in ("I am ", "<b>tiny</b>."):
        shown.arrive({"type": "try-piece", "id": first["id"], "text": piece})
    talk = page.get_by_role("log", name="Conversation")
    expect(talk).to_contain_text("I am <b>tiny</b>.")
    shown.arrive({"type": "try-piece", "id": "somebody else's", "text": "!!!"})
    shown.arrive({"type": "try-end", "id": first["id"], "error": ""})
    picture(page, "service-card-chat")

    box.fill("More")
    page.keyboard.press("Shift+Enter")
    assert asked(shown)["type"] == "try-chat", "Shift-Enter begins a new line"
    page.get_by_role("button", name="Send").click()
    second = asked(shown)
    assert [m["role"] for m in second["messages"]] == ["user", "assistant", "user"]  # type: ignore[attr-defined]
    page.get_by_role("button", name="Stop answering").click()
    assert asked(shown) == {"type": "try-stop", "id": second["id"]}
    shown.arrive({"type": "try-end", "id": second["id"], "error": "Stopped."})
    expect(page.get_by_text("Stopped.")).to_be_visible()
    expect(talk).not_to_contain_text("!!!")
    page.get_by_role("button", name="New chat").click()
    expect(talk).to_be_hidden()


def test_a_busy_kernel_and_an_error_are_told(page: Page) -> None:
    shown = a_card(page, a_service(), a_report())
    page.get_by_text("Try it: GET").click()
    page.get_by_role("button", name="GET").click()
    page.clock.run_for(3_100)
    expect(page.get_by_text("The kernel has not answered yet")).to_be_visible()
    error = {"type": "try-end", "id": asked(shown)["id"], "error": "The gateway does not answer."}
    shown.arrive(error)
    expect(page.get_by_text("The gateway does not answer.")).to_be_visible()


def test_stop_asks_once_more_and_an_ended_service_has_no_buttons(page: Page) -> None:
    shown = a_card(page, a_service(), a_report(), answer=200)
    page.get_by_role("button", name="Stop", exact=True).click()
    with page.expect_response("**/stop"):
        page.get_by_role("button", name="Yes, stop").click()
    ((url, _, body),) = shown.posted
    assert url.endswith("/dstack-jupyter/runs/chat/stop")
    assert body == {"abort": False, "id": "s1"}
    draining = a_report(*[ReplicaState.DRAINING] * 3)
    change(shown, a_service(status=RunStatus.TERMINATING), draining)
    expect(page.get_by_role("row").nth(1)).to_contain_text("draining")
    expect(page.locator(".dstack-sentence")).to_have_text("3 requests are still being answered")
    change(shown, a_service(status=RunStatus.TERMINATED), None)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()
    expect(page.get_by_text("Try it")).to_be_hidden()
    expect(page.get_by_role("link")).to_have_count(0)


def test_the_card_leaves_nothing_behind(page: Page) -> None:
    a_card(page, a_service(), a_report())
    page.evaluate("close_view()")
    assert page.evaluate("model.listeners.map(([name]) => name)") == ["msg:custom"]
