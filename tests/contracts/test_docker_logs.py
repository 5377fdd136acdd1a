"""Copying a container's log exactly once, whatever moment the copier dies at; no engine needed."""

from __future__ import annotations

import random
from datetime import datetime, timezone
from pathlib import Path

import pytest

from dstack_engine.hosts.docker_logs import LogCopier, Stored
from dstack_engine.hosts.logs import LogReader, LogWriter

OUT, ERR = 1, 2
NAMES = {OUT: "stdout", ERR: "stderr"}
#: What the Docker Engine does at 16 KB: a longer line is several entries of one time.
LONGEST_ENTRY = 20

Entry = tuple[int, int, bytes]


def encoded(entry: Entry) -> bytes:
    """Return an entry as the Docker Engine sends it."""
    stream, at, payload = entry
    second = datetime.fromtimestamp(at // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    text = f"{second}.{at % 10**9:09d}Z ".encode() + payload
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


def printed(rng: random.Random) -> list[Entry]:
    """Return the entries of some output: short and long lines, by two streams, often at once."""
    entries: list[Entry] = []
    at = 1_700_000_000 * 10**9
    for number in range(60):
        at += rng.choice((0, 0, 1, 10**6, 2 * 10**9))
        stream = rng.choice((OUT, ERR))
        line = b"%d" % number + b"." * rng.choice((0, 3, 20, 50))
        if number < 59:  # The last words have no newline.
            line += b"\n"
            at += 1  # Two lines of one stream have one time only when they are one line.
        for place in range(0, len(line), LONGEST_ENTRY):
            entries.append((stream, at, line[place : place + LONGEST_ENTRY]))
    return entries


def text(entries: list[Entry], stream: int) -> bytes:
    return b"".join(payload for of, _, payload in entries if of == stream)


def kept(log: Path, stream: int) -> bytes:
    """Return what a reader sees."""
    reader, parts, offset = LogReader(log), [], 0
    while frames := reader.read(offset):
        parts += [frame.payload for frame in frames if frame.stream_name == NAMES[stream]]
        offset = frames[-1].next_offset
    return b"".join(parts)


def write_some_early(copier: LogCopier, log: Path, entries: list[Entry], count: int) -> None:
    """Write the next *count* bytes of each stream, as an attachment does."""
    more = {}
    for stream in NAMES:
        have = len(kept(log, stream))
        if piece := text(entries, stream)[have : have + count]:
            more[stream] = piece
    copier.write_early(lambda _ahead: more)


def cut_off(log: Path, count: int) -> None:
    """Take the last *count* bytes of the log away, as a crash in mid-write does."""
    last = max(log.glob("*.log"))
    with last.open("r+b") as file:
        file.truncate(max(last.stat().st_size - count, 0))


@pytest.mark.parametrize("seed", range(40))
def test_entries_and_early_bytes_are_kept_once_whenever_the_copier_dies(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    entries = printed(rng)

    for life in range(12):
        stored = Stored.of(tmp_path)
        writer = LogWriter(tmp_path)
        copier = LogCopier(writer, stored)
        told = b"".join(encoded(entry) for entry in entries if entry[1] >= stored.since_ns)
        place, last = 0, life == 11
        while place < len(told) and (last or rng.random() < 0.8):
            block = rng.choice((1, 30, 100, 500))
            copier.feed(told[place : place + block])
            place += block
            if rng.random() < 0.4:
                write_some_early(copier, tmp_path, entries, rng.choice((1, 5, 30, 60)))
        if last:
            copier.finish()
        writer.close()
        if not last and rng.random() < 0.5:
            cut_off(tmp_path, rng.randrange(40))

    for stream in NAMES:
        assert kept(tmp_path, stream) == text(entries, stream)


def test_nothing_is_written_early_before_the_end_of_what_is_stored_is_found(
    tmp_path: Path,
) -> None:
    entry = (OUT, 1_700_000_000 * 10**9, b"line\n")
    writer = LogWriter(tmp_path)
    LogCopier(writer, Stored()).feed(encoded(entry))
    copier = LogCopier(writer, Stored.of(tmp_path))

    assert not copier.write_early(lambda _: {OUT: b"x"})
    copier.feed(encoded(entry))
    assert copier.write_early(lambda _: {OUT: b"x"})

    assert kept(tmp_path, OUT) == b"line\nx"
    assert Stored.of(tmp_path).ahead == {OUT: 1}
    writer.close()


def test_a_newline_that_the_engine_forgets_may_have_come_early(tmp_path: Path) -> None:
    at = 1_700_000_000 * 10**9
    writer = LogWriter(tmp_path)
    copier = LogCopier(writer, Stored())
    copier.feed(encoded((OUT, at, b"a long line")))
    copier.write_early(lambda _: {OUT: b"\nne"})

    copier.feed(encoded((OUT, at + 1, b"next\n")))

    writer.close()
    assert kept(tmp_path, OUT) == b"a long line\nnext\n"
