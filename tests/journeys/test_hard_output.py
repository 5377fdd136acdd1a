"""Output that is too much, not text, or never a line: it arrives, or a mark says what did not."""

from __future__ import annotations

import hashlib
import time

import pytest

from dstack_engine.home import Home
from dstack_engine.records.events import Stream
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunStatus
from dstack_engine.records.updates import LogWritten
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import EngineProcess, jobs_processes

MB = 1 << 20

#: Prints the bytes of a sequence that is known here, too: no newline, every byte value.
BINARY = (
    'python3 -c "import sys; '
    '[sys.stdout.buffer.write(bytes((n * k) % 256 for n in range(4096))) for k in range(256)]"'
)


def size_of(home: Home) -> int:
    return sum(path.stat().st_size for path in home.logs.rglob("*") if path.is_file())


@ON_BOTH_HOSTS
def test_bytes_that_are_no_text_arrive_as_they_are(offer: OfferId, engine: EngineProcess) -> None:
    name = engine.start().submit(f"commands: [{BINARY!r}]", offer).name
    assert engine.until_ended(name).status is RunStatus.DONE
    wanted = b"".join(bytes((n * k) % 256 for n in range(4096)) for k in range(256))
    got = engine.output(name)
    assert (len(got), hashlib.sha256(got).digest()) == (
        len(wanted),
        hashlib.sha256(wanted).digest(),
    )


@ON_BOTH_HOSTS
def test_output_without_a_newline_is_seen_while_the_job_runs(
    offer: OfferId, engine: EngineProcess
) -> None:
    text = "commands: ['printf working; until [ -e go ]; do sleep 0.05; done; printf ...done']"
    name = engine.start().submit(text, offer).name
    if offer == "local/process":
        engine.until_prints(name, b"working")
    else:
        # Docker keeps a line until it ends or is 16 KB long.
        engine.until(name, lambda view: view.status is RunStatus.RUNNING)
    engine.client.execute(name, ["touch", "go"], lambda _stream, _data: None)
    engine.until_ended(name)
    assert engine.output(name) == b"working...done"


@ON_BOTH_HOSTS
@pytest.mark.slow
def test_more_output_than_is_kept_is_cut_in_the_middle_with_a_mark(
    offer: OfferId, engine: EngineProcess
) -> None:
    engine.settings.append("log_limit: 4MB")
    text = "commands: [echo first, 'yes 0123456789abcdef | head -n 3000000', echo last]"
    name = engine.start().submit(text, offer).name
    assert engine.until_ended(name).status is RunStatus.DONE, engine.log_tail()
    frames = list(engine.client.logs(name))
    output = b"".join(frame.payload for frame in frames)
    assert output.startswith(b"first\n")
    assert output.endswith(b"last\n")
    cuts = [frame for frame in frames if frame.stream is Stream.CUT]
    assert len(cuts) == 1
    assert b"not kept" in cuts[0].payload
    assert len(output) <= 5 * MB
    assert size_of(engine.home) <= 5 * MB


@pytest.mark.soak
@ON_BOTH_HOSTS
def test_a_gigabyte_is_printed_in_bounded_memory_and_room(
    offer: OfferId, engine: EngineProcess
) -> None:
    engine.settings.append("log_limit: 64MB")
    text = "commands: [echo first, 'yes $(printf %0999d 7) | head -n 1000000', echo last]"
    name = engine.start().submit(text, offer).name
    before = engine.client.engine().memory_mb
    most = before
    while not engine.client.run(name).finished:
        most = max(most, engine.client.engine().memory_mb)
        assert size_of(engine.home) <= 80 * MB
        time.sleep(0.5)
    assert engine.client.run(name).status is RunStatus.DONE, engine.log_tail()
    assert most - before < 100
    output = engine.output(name)
    assert output.startswith(b"first\n")
    assert output.endswith(b"last\n")


def _follow_lines(engine: EngineProcess, offer: OfferId, rate: int, seconds: int) -> None:
    """Have a job print *rate* numbered lines a second, and hear every one of them live."""
    program = (
        "import sys, time; begun = time.monotonic()\n"
        f"for s in range({seconds} * 50):\n"
        f"    print(*range(s * {rate // 50}, (s + 1) * {rate // 50}), sep=chr(10), flush=True)\n"
        "    time.sleep(max(0, begun + (s + 1) / 50 - time.monotonic()))\n"
    )
    wanted = rate // 50 * seconds * 50
    source = program.replace("\n", "\\n").replace('"', '\\"')
    text = f'commands: ["python3 -c \\"$PROGRAM\\""]\nenv: {{PROGRAM: "{source}"}}'
    name = engine.submit(text, offer).name
    expected, rest = 0, b""
    for update in engine.client.updates(cursor="0", logs=[name]):
        if isinstance(update, LogWritten):
            *lines, rest = (rest + update.frame.payload).split(b"\n")
            assert lines == [b"%d" % n for n in range(expected, expected + len(lines))]
            expected += len(lines)
            if expected == wanted:
                break
    assert engine.until_ended(name).status is RunStatus.DONE


@ON_BOTH_HOSTS
@pytest.mark.slow
def test_fifty_thousand_lines_a_second_are_all_heard(offer: OfferId, engine: EngineProcess) -> None:
    _follow_lines(engine.start(), offer, rate=50_000, seconds=3)
    assert jobs_processes(engine.home) == {}


@ON_BOTH_HOSTS
@pytest.mark.soak
def test_fifty_thousand_lines_a_second_are_all_heard_for_long(
    offer: OfferId, engine: EngineProcess
) -> None:
    _follow_lines(engine.start(), offer, rate=50_000, seconds=40)
