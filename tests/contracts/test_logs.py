"""The log on disk: nothing lost, nothing twice, bounded, and readable while it grows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_engine.hosts import logs
from dstack_engine.hosts.logs import CUT, HEADER, STDERR, STDOUT, LogFrame, LogReader, LogWriter


def everything(reader: LogReader, offset: int = 0, step: int = 1 << 20) -> list[LogFrame]:
    frames: list[LogFrame] = []
    while more := reader.read(offset, step):
        assert more[0].offset == offset
        frames += more
        offset = more[-1].next_offset
    return frames


def text(frames: list[LogFrame], stream: int | None = None) -> bytes:
    return b"".join(f.payload for f in frames if stream is None or f.stream == stream)


def test_what_was_written_is_read_by_stream_and_in_order(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.append(STDOUT, 1, b"one\n")
    writer.append_many([(STDERR, 2, b"two\n"), (STDOUT, 3, b"\x00\xff three")])

    frames = LogReader(tmp_path).read()

    assert [(f.stream_name, f.time_ns, f.payload) for f in frames] == [
        ("stdout", 1, b"one\n"),
        ("stderr", 2, b"two\n"),
        ("stdout", 3, b"\x00\xff three"),
    ]
    assert frames[-1].next_offset == writer.end == LogReader(tmp_path).end


def test_a_log_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    reader = LogReader(tmp_path / "none")

    assert reader.read() == []
    assert (reader.end, reader.last_time(), reader.tail(10)) == (0, (0, 0), [])


@given(
    pieces=st.lists(
        st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=300)),
        max_size=40,
    ),
    step=st.integers(1, 2000),
)
def test_any_pieces_read_in_any_steps_come_back_whole(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes]], step: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    writer = LogWriter(folder)
    writer.append_many([(stream, 7, payload) for stream, payload in pieces])
    writer.close()

    frames = everything(LogReader(folder), step=step)

    for stream in (STDOUT, STDERR):
        assert text(frames, stream) == b"".join(p for s, p in pieces if s == stream)
    assert text(frames) == b"".join(p for _, p in pieces)


def test_neighbours_of_one_stream_are_joined_up_to_64_kb(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.append_many([(STDOUT, n, b"x" * 99 + b"\n") for n in range(2000)])

    frames = everything(LogReader(tmp_path))

    assert len(text(frames)) == 200_000
    assert max(len(f.payload) for f in frames) <= 64 << 10
    assert len(frames) < 10


@pytest.mark.parametrize("kept", range(1, HEADER.size + 5))
def test_a_frame_half_written_by_a_crash_is_cut_off_and_writing_goes_on(
    tmp_path: Path, kept: int
) -> None:
    writer = LogWriter(tmp_path)
    writer.append(STDOUT, 1, b"whole\n")
    end = writer.end
    writer.append(STDOUT, 2, b"5678")
    writer.close()
    [segment] = tmp_path.glob("*.log")
    os.truncate(segment, end + kept)
    whole = kept == HEADER.size + 4
    assert text(everything(LogReader(tmp_path))) == (b"whole\n5678" if whole else b"whole\n")

    again = LogWriter(tmp_path)
    again.append(STDERR, 3, b"after\n")

    read = text(everything(LogReader(tmp_path)))
    assert read == (b"whole\n5678after\n" if whole else b"whole\nafter\n")


def test_garbage_after_the_last_frame_is_cut_off(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.append(STDOUT, 1, b"whole\n")
    writer.close()
    [segment] = tmp_path.glob("*.log")
    with segment.open("ab") as file:
        file.write(b"\xee" * 100)

    again = LogWriter(tmp_path)
    again.append(STDOUT, 2, b"after\n")

    assert text(everything(LogReader(tmp_path))) == b"whole\nafter\n"


def test_above_its_cap_head_and_newest_tail_stay_with_a_mark_between(tmp_path: Path) -> None:
    cap = 1 << 20
    writer = LogWriter(tmp_path, cap)
    lines = [b"%08d %s\n" % (n, b"." * 90) for n in range(64_000)]
    for at in range(0, len(lines), 100):
        writer.append(STDOUT, at, b"".join(lines[at : at + 100]))

    frames = everything(LogReader(tmp_path))

    [mark] = [f for f in frames if f.stream == CUT]
    head = text([f for f in frames if f.offset < mark.offset])
    tail = text([f for f in frames if f.offset > mark.offset])
    whole = b"".join(lines)
    assert whole.startswith(head)
    assert whole.endswith(tail)
    assert cap * 0.4 < len(head) <= cap / 2
    assert cap * 0.4 < len(tail) <= cap * 0.6
    assert b"of output were not kept: the log is limited to 1 MB" in mark.payload
    assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) <= cap * 1.1
    assert LogReader(tmp_path).end == writer.end


def test_reading_on_from_a_place_that_was_dropped_says_so_and_continues(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, 64 << 10)
    places = []
    for n in range(4000):
        places.append(writer.end)
        writer.append(STDOUT, n, b"%06d %s\n" % (n, b"." * 92))

    frames = LogReader(tmp_path).read(places[2000])

    assert frames[0].stream == CUT
    assert frames[0].offset == places[2000]
    assert frames[1].offset == frames[0].next_offset
    assert frames[1].payload[:6] == b"%06d" % places.index(frames[1].offset)


def test_a_reopened_log_keeps_its_head_and_its_limit(tmp_path: Path) -> None:
    for n in range(200):
        writer = LogWriter(tmp_path, 64 << 10)
        writer.append(STDOUT, n, b"%04d " % n + b"." * 4000)
        writer.close()

    frames = everything(LogReader(tmp_path))

    assert frames[0].payload.startswith(b"0000 ")
    assert b"0199 " in frames[-1].payload
    assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) <= (64 << 10) * 1.2


def test_the_tail_begins_at_a_frame(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.append_many([(STDOUT, n, b"%05d\n" % n) for n in range(10_000)])

    tail = text(LogReader(tmp_path).tail(1000))

    assert tail.endswith(b"09999\n")
    assert tail == b"".join(b"%05d\n" % n for n in range(10_000))[-len(tail) :]
    assert 0 < len(tail) <= 1000


def test_the_last_time_tells_where_to_resume_a_source(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.append_many([(STDOUT, 5, b"a"), (STDOUT, 9, b"b"), (STDERR, 9, b"c")])

    assert LogReader(tmp_path).last_time() == (9, 2)


def test_the_last_time_counts_across_segments(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, 64 << 10)
    writer.append_many([(STDOUT, 1, b"first")] + [(STDOUT, 9, b"." * 1000)] * 20)
    assert len(list(tmp_path.glob("*.log"))) > 1

    assert LogReader(tmp_path).last_time() == (9, 20)


def test_a_place_inside_a_frame_is_moved_to_the_next_frame(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.append(STDOUT, 1, b"a" * 50)
    second = writer.end
    writer.append(STDOUT, 2, b"b" * 50)

    assert [f.payload for f in LogReader(tmp_path).read(second - 20)] == [b"b" * 50]


def test_a_full_disk_leaves_the_log_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(tmp_path)
    writer.append(STDOUT, 1, b"before\n")
    write = os.write

    def short_of_space(fd: int, data: bytes) -> int:
        monkeypatch.setattr(logs.os, "write", no_space)
        return write(fd, bytes(data)[:5])

    def no_space(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs.os, "write", short_of_space)
    with pytest.raises(OSError, match="No space"):
        writer.append(STDOUT, 2, b"lost\n")
    monkeypatch.undo()
    writer.append(STDOUT, 3, b"after\n")

    assert text(everything(LogReader(tmp_path))) == b"before\nafter\n"


def test_a_reader_that_follows_a_fast_writer_sees_every_byte_once(tmp_path: Path) -> None:
    lines = [b"%07d\n" % n for n in range(60_000)]
    reader = LogReader(tmp_path)
    done = threading.Event()
    seen: list[bytes] = []

    def follow() -> None:
        offset = 0
        while True:
            ended = done.is_set()
            frames = reader.read(offset)
            seen.extend(f.payload for f in frames)
            if frames:
                offset = frames[-1].next_offset
            elif ended:
                return

    thread = threading.Thread(target=follow)
    writer = LogWriter(tmp_path, 16 << 20)
    writer._segment_bytes = 20_000  # so that segments roll often under the reader
    thread.start()
    for at in range(0, len(lines), 37):
        writer.append(STDOUT, at, b"".join(lines[at : at + 37]))
    done.set()
    thread.join(60)

    assert b"".join(seen) == b"".join(lines)


def test_files_are_the_users_alone(tmp_path: Path) -> None:
    LogWriter(tmp_path / "log").append(STDOUT, 1, b"secret")

    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "log").iterdir())


def test_a_bare_interpreter_can_import_it() -> None:
    """Nothing but a little of the standard library, for the supervisor's quick start."""
    package = Path(logs.__file__).parents[2]
    code = (
        f"import sys; sys.path.append({str(package)!r}); import dstack_engine.hosts.logs; "
        "print(sorted({'typing', 're', 'pydantic', 'dataclasses'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)

    assert done.stdout == "[]\n", done.stderr
