"""The event stream's shapes: what is encoded is decoded, and a cursor names its place."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_engine.errors import ArgumentError
from dstack_engine.records.events import Event, Frame, Progress, Stream
from dstack_engine.records.runs import Run, RunId, RunStatus
from dstack_engine.records.sightings import GpuUsage, Usage
from dstack_engine.records.updates import (
    CaughtUp,
    LogWritten,
    Progressed,
    RecordChanged,
    Update,
    UsageSeen,
)
from dstack_engine.spec.configurations import TaskConfiguration
from dstack_engine.streams import Cursor, Feed, decode, encode

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
RUN = Run(
    RunId("1"),
    "fox",
    TaskConfiguration.model_validate({"type": "task", "commands": ["true"]}),
    RunStatus.SUBMITTED,
    NOON,
    NOON,
)


def there_and_back(update: Update) -> Update | None:
    fields = dict(line.split(": ", 1) for line in encode(update).decode().splitlines() if line)
    return decode(fields["event"], fields["data"], fields.get("id", ""))


@pytest.mark.parametrize(
    "update",
    [
        RecordChanged("7", Event(7, NOON, RUN)),
        LogWritten("7;fox-0-0/1=5", "fox", "fox-0-0/1",
                   Frame(0, 5, Stream.STDERR, NOON, b"\xff\x00\n")),
        Progressed(Progress("fox-0-0/1", "pulling", 0.42, "1.2/3.4 GB")),
        UsageSeen("fox-0-0/1", Usage(NOON, 1.5, 2.0, (GpuUsage("GPU-1", 0.9, 70.0),))),
        CaughtUp("7"),
    ],
)  # fmt: skip
def test_what_is_told_arrives(update: Update) -> None:
    assert there_and_back(update) == update


def test_a_kind_of_a_later_version_is_passed_over() -> None:
    assert decode("novelty", "{}", "1") is None


@given(
    st.integers(min_value=0),
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9-]{1,40}-0-0/[1-9]", fullmatch=True), st.integers(0)
    ),
)
def test_a_cursor_is_its_text(sequence: int, offsets: dict[str, int]) -> None:
    cursor = Cursor(sequence, offsets)
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize("text", ["", "x", "1;fox", "1;fox=x", "1;;", "-"])
def test_a_text_that_no_cursor_has_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="not a cursor"):
        Cursor.parse(text)


@given(st.binary(max_size=300), st.integers(1, 40), st.lists(st.integers(0, 12), max_size=20))
def test_a_stream_cut_anywhere_goes_on_without_gap_or_repeat(
    output: bytes, step: int, cuts: list[int]
) -> None:
    def read_log(_job: str, offset: int, _size: int) -> list[Frame]:
        piece = output[offset : offset + step]
        if not piece:
            return []
        return [Frame(offset, offset + len(piece), Stream.STDOUT, NOON, piece)]

    def logs_of(_run: str) -> dict[str, int]:
        return {"fox-0-0-1-0af3c5": len(output)}

    def feed(cursor: str) -> Feed:
        return Feed(Cursor.parse(cursor), ["fox"], lambda *_: [], logs_of, read_log)

    cursor, got = "0", b""
    for cut in [*cuts, len(output) + 1]:
        for taken, update in enumerate(feed(cursor).collect()):
            if taken >= cut:
                break
            assert isinstance(update, LogWritten)
            cursor, got = update.cursor, got + update.frame.payload
    assert got == output


def test_the_last_word_is_told_before_the_end_and_no_end_waits_for_later_words() -> None:
    def read_log(_log: str, offset: int, _size: int) -> list[Frame]:
        return [Frame(offset, offset + 5, Stream.STDOUT, NOON, b"word\n")]  # for ever

    def read_events(after: int, _limit: int) -> list[Event]:
        return [Event(1, NOON, RUN)] if after < 1 else []

    feed = Feed(Cursor(), ["fox"], read_events, lambda _run: {"log": 15}, read_log)
    told = list(feed.collect())
    assert [type(update) for update in told] == [LogWritten] * 3 + [RecordChanged]
    assert told[-1].cursor == "1;log=15"  # type: ignore[union-attr]  # it has one
