"""The event stream, broken off anywhere and taken up again: neither a gap nor a repeat."""

from __future__ import annotations

import random

import pytest

from dstack_engine.errors import EngineError
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunStatus
from dstack_engine.records.updates import CaughtUp, LogWritten, RecordChanged
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import EngineProcess

#: Counts until it is told that it is enough.
COUNTING = (
    "name: fox\ncommands: ['i=0; until [ -e enough ]; do i=$((i+1)); echo $i; sleep 0.005; done']"
)


class Reader:
    """Reads the stream piece by piece, and remembers every place at which it could go on."""

    def __init__(self, engine: EngineProcess) -> None:
        self._engine = engine
        self.output = b""
        self.sequences: list[int] = []
        self.ended = False
        #: Cursor, and how much output and how many events had been heard there.
        self.places: list[tuple[str, int, int]] = [("0", 0, 0)]

    def read(self, most: int) -> None:
        """Take up to *most* updates from where the last reading ended."""
        updates = self._engine.client.updates(
            cursor=self.places[-1][0], logs=["fox"], reconnect=False
        )
        try:
            for count, update in enumerate(updates, start=1):
                self._hear(update)
                if count >= most or self.ended:
                    break
        except EngineError:
            return  # the engine has gone in the middle of it
        finally:
            updates.close()  # type: ignore[attr-defined]  # a generator

    def read_to_the_present(self) -> None:
        """Take everything that is known so far."""
        cursor = self.places[-1][0]
        for update in self._engine.client.updates(cursor=cursor, logs=["fox"]):
            self._hear(update)
            if isinstance(update, CaughtUp):
                return

    def _hear(self, update: object) -> None:
        if isinstance(update, LogWritten):
            self.output += update.frame.payload
        elif isinstance(update, RecordChanged):
            self.sequences.append(update.event.sequence)
            status = update.event.record.status
            self.ended = self.ended or status is RunStatus.DONE
        if isinstance(update, (LogWritten, RecordChanged, CaughtUp)):
            self.places.append((update.cursor, len(self.output), len(self.sequences)))


@ON_BOTH_HOSTS
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_stream_resumed_from_any_place_has_neither_gap_nor_repeat(
    offer: OfferId, engine: EngineProcess, seed: int
) -> None:
    chance = random.Random(seed)
    engine.start().submit(COUNTING, offer)
    reader = Reader(engine)
    for end in (engine.kill, engine.stop, engine.kill):
        mark = reader.output.count(b"\n") + chance.randint(30, 150)
        while reader.output.count(b"\n") < mark:
            reader.read(chance.randint(1, 40))
        end()
        engine.start()
    engine.client.execute("fox", ["touch", "enough"], lambda _stream, _data: None)
    while not reader.ended:
        reader.read(chance.randint(1, 40))
    wanted = engine.output("fox")
    assert wanted == b"".join(b"%d\n" % n for n in range(1, wanted.count(b"\n") + 1))
    assert reader.output == wanted
    assert reader.sequences == list(range(1, len(reader.sequences) + 1))
    for cursor, heard, events in chance.sample(reader.places, 25):
        again = Reader(engine)
        again.places = [(cursor, 0, 0)]
        again.read_to_the_present()
        assert again.output == wanted[heard:]
        known = reader.sequences[events:]
        assert again.sequences[: len(known)] == known


def test_from_the_first_cursor_everything_is_told_and_then_that_it_was(
    engine: EngineProcess,
) -> None:
    engine.start().submit("name: fox\ncommands: [echo hi]")
    engine.until_ended("fox")
    updates = engine.client.updates(cursor="0", logs=["fox"])
    kinds = []
    for update in updates:
        kinds.append(type(update))
        if isinstance(update, CaughtUp):
            break
    assert kinds[-1] is CaughtUp
    assert kinds.count(RecordChanged) >= 8
    assert kinds.count(LogWritten) == 1
    assert kinds.index(LogWritten) < len(kinds) - 2
