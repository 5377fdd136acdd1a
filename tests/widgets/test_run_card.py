"""The run's card, as far as Python goes: what it sends, keeps, and leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from dstack_engine.errors import Conflict
from dstack_engine.records.events import Stream
from dstack_engine.records.runs import RunStatus
from dstack_jupyter.widgets.output import MAX_MESSAGE, MAX_WAITING, Message, Output
from dstack_jupyter.widgets.pace import Pace
from dstack_jupyter.widgets.run import RunCard
from tests.widgets.samples import a_run, frames_of

PATIENCE = 10.0


class HandPace(Pace):
    """A pace that a test turns by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: dict[Callable[[], None], None] = {}
        self.living: dict[Callable[[], None], None] = {}

    def request(self, deliver: Callable[[], None]) -> None:
        self.wanted[deliver] = None

    def keep_alive(self, beat: Callable[[], None]) -> None:
        self.living[beat] = None

    def forget(self, *deliveries: Callable[[], None]) -> None:
        for delivery in deliveries:
            self.wanted.pop(delivery, None)
            self.living.pop(delivery, None)

    def turn(self) -> None:
        """Deliver all that is wanted."""
        while self.wanted:
            wanted, self.wanted = self.wanted, {}
            for deliver in wanted:
                deliver()


@dataclass
class Page:
    """What a page would have been told."""

    messages: list[tuple[dict[str, Any], bytes]] = field(default_factory=list)
    changed: threading.Event = field(default_factory=threading.Event)

    def send(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self.messages.append((content, b"".join(buffers or [])))
        self.changed.set()

    def of(self, kind: str) -> list[tuple[dict[str, Any], bytes]]:
        return [message for message in self.messages if message[0]["type"] == kind]


@dataclass
class Handle:
    """An output that remembers with what it was replaced."""

    display_id: str = "x"
    bundles: list[dict[str, str]] = field(default_factory=list)

    def update(self, bundle: dict[str, str], raw: bool = False) -> None:
        assert raw
        self.bundles.append(bundle)


@pytest.fixture
def pace() -> HandPace:
    return HandPace()


@pytest.fixture
def card(pace: HandPace) -> Iterator[RunCard]:
    made = RunCard(a_run(), pace=pace)
    yield made
    made.close()


@pytest.fixture
def page(card: RunCard, monkeypatch: pytest.MonkeyPatch) -> Page:
    listening = Page()
    monkeypatch.setattr(card, "send", listening.send)
    return listening


def test_much_news_becomes_one_message(card: RunCard, page: Page, pace: HandPace) -> None:
    for number in range(1000):
        card.log(frames_of(b"line %d\n" % number))
    pace.turn()
    ((content, payload),) = page.of("log")
    assert payload.count(b"\n") == 1000
    assert content == {"type": "log", "at": 0, "frames": [("stdout", len(payload))]}


def test_a_change_of_the_run_reaches_the_page(card: RunCard, pace: HandPace) -> None:
    card.update(a_run(RunStatus.TERMINATING))
    pace.turn()
    assert card.run["word"] == "stopping"


def test_nothing_is_sent_when_nothing_has_changed(card: RunCard, pace: HandPace) -> None:
    before = card.run
    card.update(a_run())
    pace.turn()
    assert card.run is before


def test_a_page_opened_later_is_brought_to_where_the_others_are(
    card: RunCard, page: Page, pace: HandPace
) -> None:
    card.log(frames_of(b"one\n\r 10%\r 20%"))
    pace.turn()
    card._heard(card, {"type": "hello", "at": 0}, [])
    ((content, payload),) = page.of("reset")
    assert (content["at"], content["dropped"]) == (14, 0)
    assert b"20%" in payload
    assert b"10%" not in payload


def test_stop_by_the_kernel_calls_back_and_says_what_came_of_it(card: RunCard, page: Page) -> None:
    asked: list[bool] = []
    card.on_stop(asked.append)
    card._heard(card, {"type": "stop", "abort": True}, [])
    assert page.changed.wait(PATIENCE)
    assert asked == [True]
    assert page.of("stop-answer")[0][0]["ok"] is True


def test_a_stop_that_was_refused_is_said_in_the_card(card: RunCard, page: Page) -> None:
    def refuse(_abort: bool) -> None:
        raise Conflict("wet-fox-1 has ended", hint="See %dstack ps")

    card.on_stop(refuse)
    card._heard(card, {"type": "stop"}, [])
    assert page.changed.wait(PATIENCE)
    answer = page.of("stop-answer")[0][0]
    assert answer == {
        "type": "stop-answer",
        "ok": False,
        "text": "wet-fox-1 has ended\nSee %dstack ps",
    }


def test_an_ended_run_leaves_static_html_with_its_last_lines_and_no_live_part(
    card: RunCard, pace: HandPace
) -> None:
    handle = Handle()
    card.attach(handle)  # type: ignore[arg-type]
    assert "application/vnd.jupyter.widget-view+json" in card._repr_mimebundle_()[0]
    card.log(frames_of(b"\x1b[31mred\x1b[0m\nlast\n"))
    card.update(a_run(RunStatus.DONE))
    card.ended()
    card.ended()
    pace.turn()
    (bundle,) = handle.bundles
    assert set(bundle) == {"text/html", "text/plain"}
    assert "✓ wet-fox-1  done" in bundle["text/plain"]
    assert bundle["text/plain"].endswith("red\nlast")
    assert '<span style="color:#d1453b">red</span>' in bundle["text/html"]
    assert card.is_frozen
    assert not pace.living
    assert set(card._repr_mimebundle_()[0]) == {"text/html", "text/plain"}


def test_a_live_card_carries_a_copy_for_places_without_widgets(card: RunCard) -> None:
    bundle, _ = card._repr_mimebundle_()
    assert "wet-fox-1" in str(bundle["text/plain"])
    assert "<div" in str(bundle["text/html"])
    assert repr(card) == "<run wet-fox-1: running>"


def test_a_flood_is_sent_in_bounded_messages_and_marked_where_it_was_cut() -> None:
    output = Output()
    piece = b"x" * 99 + b"\n"
    output.take(frames_of(*[piece * 1000] * (MAX_WAITING // 100_000 + 50)))
    messages = list(_drained(output))
    assert max(len(message.payload) for message in messages) <= MAX_MESSAGE + 100
    assert messages[0].content["frames"][0][0] == "cut"  # type: ignore[index]
    assert messages[0].payload.startswith("… 5,000,000 bytes came faster".encode())
    ends = [int(str(m.content["at"])) + len(m.payload) for m in messages]
    assert [m.content["at"] for m in messages[1:]] == ends[:-1]


def _drained(output: Output) -> Iterator[Message]:
    while message := output.message():
        yield message


def test_the_copy_has_what_was_not_sent_yet_and_half_characters() -> None:
    output = Output()
    output.take(frames_of(b"sent \xe2\x82"))
    output.message()
    output.take(frames_of(b"\xac waiting", (Stream.CUT, b"cut here")))
    assert output.screen().text() == "sent € waiting\ncut here"


def test_the_pace_delivers_each_wish_once_and_outlives_a_failure() -> None:
    pace = Pace(interval=0.01, beat=0.02)
    delivered = threading.Semaphore(0)
    beats = threading.Semaphore(0)

    def broken() -> None:
        raise RuntimeError("a page went away")

    def beat() -> None:
        beats.release()

    def deliver() -> None:
        delivered.release()

    pace.request(broken)
    pace.request(deliver)
    assert delivered.acquire(timeout=PATIENCE)
    pace.keep_alive(beat)
    assert beats.acquire(timeout=PATIENCE)
    assert beats.acquire(timeout=PATIENCE)
    pace.forget(beat)
    pace.request(deliver)
    assert delivered.acquire(timeout=PATIENCE)
