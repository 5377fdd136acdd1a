"""The service's card, as far as Python goes: what it sends, asks, keeps, and leaves behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from dstack_engine.errors import Refused
from dstack_engine.records.jobs import JobStatus
from dstack_engine.records.runs import RunStatus
from dstack_engine.records.updates import GatewayView
from dstack_jupyter.failures import GatewayError
from dstack_jupyter.gateway import Answer, Cancelled, Token, Wish
from dstack_jupyter.widgets.service import MAX_OUTPUTS, SAMPLES, ServiceCard
from dstack_jupyter.widgets.trials import MAX_UNDER_WAY, Trials
from tests.widgets.samples import MODEL, a_replica, a_report, a_service, frames_of
from tests.widgets.test_run_card import PATIENCE, Handle, HandPace, Page

TOKEN = "swordfish-0123456789"


@dataclass
class Door:
    """A way to a service that answers what the test says."""

    port: int | None = 4180
    answer: Answer | Exception = field(
        default_factory=lambda: Answer(200, "OK", (("X", "y"),), b"hello", False, 0.01)
    )
    pieces: Sequence[str] = ("Hel", "lo")
    asked: list[object] = field(default_factory=list)
    #: Answers only once this is set, or the wish is cancelled.
    free: threading.Event | None = None

    def view(self) -> GatewayView:
        if self.port is None:
            raise Refused("No gateway runs yet")
        return GatewayView(self.port)

    def token(self) -> Token:
        return Token(TOKEN)

    def get(self, run: str, path: str, wish: Wish) -> Answer:
        self.asked.append((run, path))
        self._wait(wish)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def chat(self, model: str, messages: object, wish: Wish) -> Iterator[str]:
        self.asked.append((model, messages))
        self._wait(wish)
        yield from self.pieces

    def _wait(self, wish: Wish) -> None:
        while self.free is not None and not self.free.wait(0.01):
            if wish.cancelled:
                raise Cancelled


@pytest.fixture
def pace() -> HandPace:
    return HandPace()


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def card(pace: HandPace, door: Door) -> Iterator[ServiceCard]:
    made = ServiceCard(a_service(text=MODEL), door, pace=pace)  # type: ignore[arg-type]
    until = threading.Event()
    while made._place.port is None and not until.wait(0.01):
        pass
    yield made
    made.close()


@pytest.fixture
def page(card: ServiceCard, monkeypatch: pytest.MonkeyPatch) -> Page:
    listening = Page()
    monkeypatch.setattr(card, "send", listening.send)
    return listening


def heard(card: ServiceCard, **content: object) -> None:
    """Let a page say something."""
    card._heard(card, content, [])


def test_a_report_reaches_the_page_as_state_and_as_a_point_of_the_plots(
    card: ServiceCard, page: Page, pace: HandPace
) -> None:
    card.service(a_report())
    pace.turn()
    state = card.service_state
    assert (state["word"], state["model"]) == ("ready", "tiny")
    assert state["addresses"][0]["url"] == "http://chat.localhost:4180/"
    ((message, _),) = page.of("samples")
    assert message["samples"][0][1:] == [12.34, 0.082, 3, 1]
    assert json.dumps(state), "plain values only"


def test_a_page_opened_later_gets_the_last_five_minutes_and_every_output(
    card: ServiceCard, page: Page, pace: HandPace
) -> None:
    for _ in range(SAMPLES + 20):
        card.service(a_report())
    for number in range(3):
        card.log(frames_of(b"replica %d\n" % number), a_replica(number).container)
    pace.turn()
    page.messages.clear()
    heard(card, type="hello")
    ((message, _),) = page.of("samples")
    assert (len(message["samples"]), message["all"]) == (SAMPLES, True)
    resets = {content["log"]: payload for content, payload in page.of("reset")}
    assert resets[a_replica(1).container].startswith(b"replica 1\n")
    assert len(resets) == 3


def test_outputs_of_replicas_that_ended_long_ago_are_let_go(
    card: ServiceCard, pace: HandPace
) -> None:
    jobs = [a_replica(0, JobStatus.FAILED, attempt=number) for number in range(1, MAX_OUTPUTS + 9)]
    card.update(a_service(*jobs, a_replica(0, attempt=99)))
    for job in (a_replica(0, attempt=99), *jobs):
        card.log(frames_of(b"words\n"), job.container)
    pace.turn()
    logs = [label["log"] for label in card.service_state["logs"]]
    assert len(card._outputs) == MAX_OUTPUTS
    assert logs[0] == a_replica(0, attempt=99).container


def test_an_ended_service_leaves_static_html_and_no_live_part(
    card: ServiceCard, pace: HandPace
) -> None:
    handle = Handle()
    card.attach(handle)  # type: ignore[arg-type]
    card.service(a_report())
    card.log(frames_of(b"\x1b[31mred\x1b[0m last\n"), a_replica(1).container)
    jobs = [a_replica(number, JobStatus.TERMINATED) for number in range(3)]
    card.update(a_service(*jobs, text=MODEL, status=RunStatus.TERMINATED))
    card.ended()
    pace.turn()
    (bundle,) = handle.bundles
    assert bundle["text/plain"].splitlines()[0].startswith("■ chat  terminated")
    assert "replica 1:\nred last" in bundle["text/plain"]
    assert '<span style="color:#d1453b">red</span>' in bundle["text/html"]
    assert set(card._repr_mimebundle_()[0]) == {"text/html", "text/plain"}


def until_said(card: ServiceCard, page: Page, kind: str, count: int = 1) -> list[dict[str, Any]]:
    """Return what was said of *kind*, once it was so often."""
    tick = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        card.draw()
        if len(page.of(kind)) >= count:
            return [content for content, _ in page.of(kind)]
        tick.wait(0.01)
    raise TimeoutError(kind)


def test_a_path_is_asked_for_by_the_kernel(card: ServiceCard, page: Page, door: Door) -> None:
    heard(card, type="try", id="a1", path="/health")
    assert until_said(card, page, "try-end") == [{"type": "try-end", "id": "a1", "error": ""}]
    ((answer, _),) = page.of("try-answer")
    assert (answer["status"], answer["body"]) == (200, "hello")
    assert door.asked == [("chat", "/health")]


def test_a_chat_streams_its_pieces_and_then_ends(
    card: ServiceCard, page: Page, pace: HandPace, door: Door
) -> None:
    messages = [{"role": "user", "content": "Hi", "more": "x"}]
    heard(card, type="try-chat", id="a1", messages=messages)
    until_said(card, page, "try-end")
    assert "".join(content["text"] for content, _ in page.of("try-piece")) == "Hello"
    assert door.asked == [("tiny", [{"role": "user", "content": "Hi"}])]


def test_a_question_is_stopped_by_the_page_and_by_the_end_of_the_card(
    card: ServiceCard, page: Page, pace: HandPace, door: Door
) -> None:
    door.free = threading.Event()
    heard(card, type="try", id="a1", path="/")
    heard(card, type="try", id="a2", path="/")
    heard(card, type="try-stop", id="a1")
    assert until_said(card, page, "try-end")[0] == {
        "type": "try-end",
        "id": "a1",
        "error": "Stopped.",
    }
    card.ended()
    until_said(card, page, "try-end", 2)
    assert not card._trials._under_way


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"type": "try", "path": "no-slash"}, "A path begins with /"),
        ({"type": "try", "path": "/a\r\nX: y"}, "no spaces"),
        ({"type": "try", "path": "/" * 3_000}, "2,000 characters"),
        ({"type": "try", "path": None}, "A path begins with /"),
        ({"type": "try-chat", "messages": "x"}, "There is no question"),
        ({"type": "try-chat", "messages": [{"role": "boss", "content": "x"}]}, "has a role"),
        ({"type": "try-chat", "messages": [{"role": "user", "content": 1}]}, "has a role"),
        (
            {"type": "try-chat", "messages": [{"role": "user", "content": "x" * 500_000}]},
            "too long",
        ),
    ],
)
def test_what_a_page_may_not_ask_is_refused(
    card: ServiceCard,
    page: Page,
    pace: HandPace,
    door: Door,
    content: dict[str, object],
    said: str,
) -> None:
    heard(card, id="a1", **content)
    assert said in until_said(card, page, "try-end")[0]["error"]
    assert not door.asked


def test_only_so_many_questions_are_under_way(
    card: ServiceCard, page: Page, pace: HandPace, door: Door
) -> None:
    door.free = threading.Event()
    for number in range(MAX_UNDER_WAY + 1):
        heard(card, type="try", id=f"a{number}", path="/")
    assert "enough under way" in until_said(card, page, "try-end")[0]["error"]
    door.free.set()
    until_said(card, page, "try-end", MAX_UNDER_WAY + 1)


def test_an_error_is_a_sentence_and_a_bug_is_not_shown(
    card: ServiceCard, page: Page, pace: HandPace, door: Door
) -> None:
    door.answer = GatewayError("The gateway does not answer.")
    heard(card, type="try", id="a1", path="/")
    assert until_said(card, page, "try-end")[0]["error"] == "The gateway does not answer."
    door.answer = RuntimeError(TOKEN)
    heard(card, type="try", id="a2", path="/")
    assert "the kernel's log says why" in until_said(card, page, "try-end", 2)[1]["error"]


def test_the_token_is_nowhere_in_the_card(
    card: ServiceCard, page: Page, pace: HandPace, door: Door
) -> None:
    door.answer = Answer(200, "OK", (("X", TOKEN),), f"you sent {TOKEN}".encode(), False, 0.01)
    heard(card, type="try", id="a1", path="/")
    until_said(card, page, "try-end")
    ((answer, _),) = page.of("try-answer")
    assert answer["body"] == "you sent •••"
    card.service(a_report())
    pace.turn()
    kept = json.dumps([card.get_state(), page.messages, card._repr_mimebundle_()], default=str)
    assert TOKEN not in kept
    assert TOKEN not in repr(card)


def test_what_is_no_text_is_only_measured() -> None:
    trials = Trials(Door(answer=Answer(200, "OK", (), b"\x00\x01", True, 0.1)), "web", None, print)  # type: ignore[arg-type]
    trials._get("a", "/", Wish())
    (answer,) = trials.take()
    assert answer["body"] == "(2 bytes and more of no text)"
