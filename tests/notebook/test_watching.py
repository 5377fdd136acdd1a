"""The thread that watches runs, against a client of the test's own: order, resumption, endings."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

import pytest

from dstack_engine.errors import EngineDown, NotFound
from dstack_engine.records.events import Event, Frame, Progress, Stream
from dstack_engine.records.jobs import Job, JobId, JobStatus
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import Run, RunId, RunStatus, RunView
from dstack_engine.records.sightings import Usage
from dstack_engine.records.updates import CaughtUp, LogWritten, RecordChanged, ServiceSeen, Update
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_jupyter.watching import Watcher

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
JOB = Job(
    id=JobId("fox-0-0/1"),
    run_id="abcdef12",
    run_name="fox",
    node=0,
    replica=0,
    attempt=1,
    status=JobStatus.RUNNING,
    since=NOON,
    submitted_at=NOON,
)
RUN = Run(
    id=RunId("abcdef12"),
    name="fox",
    configuration=configuration_from_dict({"type": "task", "commands": ["x"]}),  # type: ignore[arg-type]
    status=RunStatus.RUNNING,
    since=NOON,
    submitted_at=NOON,
)
VIEW = RunView(RUN, (JOB,))
DONE = replace(RUN, status=RunStatus.DONE)


def frame(offset: int, text: str) -> Frame:
    """Return output that stands at *offset*."""
    return Frame(offset, offset + len(text), Stream.STDOUT, NOON, text.encode())


@dataclass
class OneRun:
    """A client of an engine with one run, whose streams the test writes."""

    view: RunView = VIEW
    rest: tuple[Frame, ...] = ()
    #: What was asked of `updates`: cursor and logs.
    asked: list[tuple[str | None, tuple[str, ...]]] = field(default_factory=list)
    #: Each stream that was opened.
    streams: queue.Queue[queue.Queue[Update | None]] = field(default_factory=queue.Queue)
    down: bool = False
    #: What the gateway saw of it last, where it is a service.
    report: ServiceReport | None = None

    def updates(
        self, *, cursor: str | None = None, logs: Sequence[str] = (), reconnect: bool = True
    ) -> Iterator[Update]:
        self.asked.append((cursor, tuple(logs)))
        news: queue.Queue[Update | None] = queue.Queue()
        self.streams.put(news)
        while (update := news.get()) is not None:
            yield update

    def service(self, name: str) -> ServiceReport | None:
        return self.report

    def run(self, name: str) -> RunView:
        if name != self.view.name:
            raise NotFound(name)
        return self.view

    def logs(
        self, name: str, *, offset: int = 0, replica: int = 0, node: int = 0
    ) -> Iterator[Frame]:
        return iter([one for one in self.rest if one.offset >= offset])

    def next_stream(self) -> queue.Queue[Update | None]:
        return self.streams.get(timeout=10)


class Ear:
    """A follower that remembers."""

    def __init__(self) -> None:
        self.statuses: list[str] = []
        self.jobs: list[JobStatus] = []
        self.text = ""
        self.logs: list[str] = []
        self.reports: list[ServiceReport] = []
        self.over = threading.Event()

    def update(self, view: RunView) -> None:
        self.statuses.append(view.status.value)
        self.jobs += [job.status for job in view.jobs]

    def log(self, frames: Sequence[Frame], log: str) -> None:
        self.logs.append(log)
        self.text += b"".join(one.payload for one in frames).decode()

    def progress(self, progress: Progress) -> None: ...

    def usage(self, usage: Usage) -> None: ...

    def service(self, report: ServiceReport) -> None:
        self.reports.append(report)

    def ended(self) -> None:
        self.over.set()


@pytest.fixture
def engine() -> OneRun:
    """An engine with one run."""
    return OneRun()


@pytest.fixture
def watcher(engine: OneRun) -> Iterator[Watcher]:
    """A watcher of that engine, which can be down."""

    def connect() -> OneRun:
        if engine.down:
            engine.down = False
            raise EngineDown("No engine runs.")
        return engine

    made = Watcher(connect)  # type: ignore[arg-type]  # as much of a client as is called
    yield made
    made.close()
    while not engine.streams.empty():
        engine.streams.get().put(None)


def test_output_that_comes_after_the_last_event_is_told_before_the_end(
    engine: OneRun, watcher: Watcher
) -> None:
    ear = Ear()
    watcher.follow(VIEW, ear)
    news = engine.next_stream()
    assert engine.asked == [(None, ("fox",))]
    news.put(CaughtUp("5"))
    news.put(LogWritten("5;fox-0-0-1-abcdef=6", "fox", JOB.container, frame(0, "hello ")))
    engine.view, engine.rest = RunView(DONE, (JOB,)), (frame(0, "hello "), frame(6, "world"))
    news.put(RecordChanged("6;fox-0-0-1-abcdef=6", Event(6, NOON, DONE)))
    assert ear.over.wait(10)
    assert (ear.text, ear.statuses) == ("hello world", ["running", "done"])


def test_a_broken_stream_is_taken_up_where_it_was(engine: OneRun, watcher: Watcher) -> None:
    ear = Ear()
    watcher.follow(VIEW, ear)
    news = engine.next_stream()
    news.put(LogWritten("5;fox-0-0-1-abcdef=6", "fox", JOB.container, frame(0, "hello ")))
    engine.down = True
    news.put(None)
    again = engine.next_stream()
    assert engine.asked[-1] == ("5;fox-0-0-1-abcdef=6", ("fox",))
    again.put(LogWritten("5;fox-0-0-1-abcdef=11", "fox", JOB.container, frame(6, "world")))
    engine.view = RunView(DONE, (JOB,))
    again.put(RecordChanged("6;fox-0-0-1-abcdef=11", Event(6, NOON, DONE)))
    assert ear.over.wait(10)
    assert ear.text == "hello world"


def test_a_late_reader_begins_at_its_own_place_and_the_first_hears_nothing_twice(
    engine: OneRun, watcher: Watcher
) -> None:
    first, late = Ear(), Ear()
    watcher.follow(VIEW, first)
    news = engine.next_stream()
    news.put(LogWritten("5;fox-0-0-1-abcdef=6", "fox", JOB.container, frame(0, "hello ")))
    watcher.follow(VIEW, late, offset=3)
    place = engine.next_stream()
    place.put(CaughtUp("7"))
    other = engine.next_stream()
    assert engine.asked[-1] == ("7;fox-0-0-1-abcdef=3", ("fox",))
    other.put(LogWritten("7;fox-0-0-1-abcdef=6", "fox", JOB.container, frame(3, "lo ")))
    engine.view = RunView(DONE, (JOB,))
    for stream in (news, other):
        stream.put(RecordChanged("8;fox-0-0-1-abcdef=6", Event(8, NOON, DONE)))
    assert first.over.wait(10)
    assert late.over.wait(10)
    assert (first.text, late.text) == ("hello ", "lo ")


def test_a_run_that_ended_before_the_stream_began_is_ended_at_once(
    engine: OneRun, watcher: Watcher
) -> None:
    engine.view, engine.rest = RunView(DONE, (JOB,)), (frame(0, "all"),)
    ear = Ear()
    watcher.follow(VIEW, ear)
    engine.next_stream().put(CaughtUp("9"))
    assert ear.over.wait(10)
    assert (ear.text, ear.statuses) == ("all", ["running", "done"])


def test_a_view_that_breaks_does_not_silence_the_others(engine: OneRun, watcher: Watcher) -> None:
    class Broken(Ear):
        def log(self, frames: Sequence[Frame], log: str) -> None:
            raise RuntimeError("its page was closed")

    broken, ear = Broken(), Ear()
    watcher.follow(VIEW, ear, output=False)
    engine.next_stream()
    watcher.follow(VIEW, broken)
    news = engine.next_stream()
    news.put(LogWritten("5;fox-0-0-1-abcdef=2", "fox", JOB.container, frame(0, "hi")))
    engine.view = RunView(DONE, (JOB,))
    news.put(RecordChanged("6;fox-0-0-1-abcdef=2", Event(6, NOON, DONE)))
    assert ear.over.wait(10)
    assert not broken.over.is_set()


def test_events_from_before_a_look_do_not_turn_a_view_back(
    engine: OneRun, watcher: Watcher
) -> None:
    early = replace(JOB, status=JobStatus.PULLING)
    later = replace(JOB, since=NOON + timedelta(seconds=2))
    ear = Ear()
    watcher.follow(RunView(RUN, (early,)), ear)
    news = engine.next_stream()
    engine.view = RunView(RUN, (later,))
    news.put(CaughtUp("5"))
    news.put(RecordChanged("6", Event(6, NOON, early)))
    news.put(RecordChanged("7", Event(7, NOON, DONE)))
    assert ear.over.wait(10)
    assert ear.jobs == [JobStatus.PULLING, JobStatus.RUNNING, JobStatus.RUNNING]


def test_who_only_waits_asks_for_no_output(engine: OneRun, watcher: Watcher) -> None:
    ear = Ear()
    watcher.follow(VIEW, ear, output=False)
    news = engine.next_stream()
    assert engine.asked == [(None, ())]
    engine.view = RunView(DONE, (JOB,))
    news.put(RecordChanged("6", Event(6, NOON, DONE)))
    assert ear.over.wait(10)
    assert ear.text == ""


SERVING = replace(
    RUN,
    configuration=configuration_from_dict({"type": "service", "commands": ["x"], "port": 80}),
)
SECOND = replace(JOB, id=JobId("fox-0-1/1"), replica=1)


def test_a_services_traffic_is_told_as_it_stands_and_as_it_changes(
    engine: OneRun, watcher: Watcher
) -> None:
    engine.view = RunView(SERVING, (JOB, SECOND))
    engine.report = ServiceReport("fox", SERVING.id, requests=1)
    ear, late = Ear(), Ear()
    watcher.follow(engine.view, ear)
    news = engine.next_stream()
    news.put(CaughtUp("5"))
    news.put(ServiceSeen(ServiceReport("fox", "another of that name", requests=99)))
    news.put(ServiceSeen(ServiceReport("fox", SERVING.id, requests=2)))
    news.put(LogWritten("5;x=1", "fox", SECOND.container, frame(0, "x")))
    heard = threading.Event()
    while ear.text != "x":
        heard.wait(0.01)
    watcher.follow(engine.view, late, output=False)
    news.put(RecordChanged("6", Event(6, NOON, replace(SERVING, status=RunStatus.DONE))))
    assert ear.over.wait(10)
    assert [report.requests for report in ear.reports] == [1, 2]
    assert [report.requests for report in late.reports] == [2], "what was told last"
    assert ear.logs[0] == SECOND.container


def test_what_a_services_replicas_printed_before_is_begun_where_each_was_read_to(
    engine: OneRun, watcher: Watcher
) -> None:
    engine.view = RunView(SERVING, (JOB, SECOND))
    ear = Ear()
    watcher.follow(engine.view, ear, offset={JOB.container: 7, SECOND.container: 3})
    engine.next_stream().put(CaughtUp("5"))
    engine.next_stream()
    assert engine.asked[-1] == ("5;fox-0-0-1-abcdef=7;fox-0-1-1-abcdef=3", ("fox",))
