"""Events: what happened to records, in order; and lines' frames: what jobs printed.

The store appends an event with every record it saves, in the same transaction. The API streams
both to clients, who resume from a cursor.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dstack_engine.enums import StrEnum
from dstack_engine.records.fleets import Fleet
from dstack_engine.records.instances import Instance
from dstack_engine.records.jobs import Job
from dstack_engine.records.runs import Run


class Stream(StrEnum):
    """Where a piece of output came from."""

    STDOUT = "stdout"
    STDERR = "stderr"
    CUT = "cut"  #: not output: the visible mark where output was not kept


@dataclass(frozen=True)
class Frame:
    """A piece of a job's output, as printed: bytes, not lines.

    `offset` and `next_offset` are places in the job's log: reading from `next_offset` continues
    without gap or repeat.
    """

    offset: int
    next_offset: int
    stream: Stream
    at: datetime
    payload: bytes


@dataclass(frozen=True)
class Event:
    """Something that happened to a record; `sequence` grows by order of saving."""

    sequence: int
    at: datetime
    #: The record as it was saved; environment left out.
    record: Run | Job | Instance | Fleet
    #: The record is gone from the store (`delete`).
    deleted: bool = False


@dataclass(frozen=True)
class Progress:
    """How far a job's preparation is; shown, never stored."""

    job: str
    step: str
    #: 0–1, or None where the whole is not known.
    fraction: float | None = None
    text: str = ""
