"""The event stream: records' changes and jobs' output, from a cursor, without gap or repeat.

The API sends what `Feed.collect` returns as server-sent events; the client reads it back with
`decode`. A cursor names the last event's number and, for every job followed, how far its log was
read: ``17;train-0-0/1=4096``. Frames' bytes travel as base64, since output need not be text.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pydantic import TypeAdapter

from dstack_engine.errors import ArgumentError
from dstack_engine.records.events import Event, Frame, Progress, Stream
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.sightings import Usage
from dstack_engine.records.updates import (
    CaughtUp,
    LogWritten,
    Progressed,
    RecordChanged,
    ServiceSeen,
    Update,
    UsageSeen,
)

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_PROGRESS: TypeAdapter[Progress] = TypeAdapter(Progress)
_USAGE: TypeAdapter[Usage] = TypeAdapter(Usage)
_REPORT: TypeAdapter[ServiceReport] = TypeAdapter(ServiceReport)

#: Events read at once, and bytes of one job's log: what bounds the memory of one stream.
EVENTS_AT_ONCE = 500
LOG_BYTES_AT_ONCE = 1 << 20


@dataclass
class Cursor:
    """How far a stream has been read."""

    sequence: int = 0
    offsets: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read a cursor back; raise `ArgumentError` for what none of ours can be."""
        try:
            head, *rest = text.split(";")
            pairs = (part.rsplit("=", 1) for part in rest)
            return cls(int(head), {job: int(offset) for job, offset in pairs})
        except ValueError as error:
            raise ArgumentError(f"{text[:80]!r} is not a cursor of the event stream.") from error

    def __str__(self) -> str:
        """Return the cursor's text."""
        logs = (f";{job}={offset}" for job, offset in self.offsets.items())
        return f"{self.sequence}{''.join(logs)}"


@dataclass
class Feed:
    """One client's stream; `read_events`, `list_logs` and `read_log` are the store's and logs'."""

    cursor: Cursor
    #: Names of the runs whose output is wanted.
    logs: Sequence[str]
    read_events: Callable[[int, int], Sequence[Event]]
    #: A run's logs, each with the offset at which it ends now.
    list_logs: Callable[[str], Mapping[str, int]]
    read_log: Callable[[str, int, int], Sequence[Frame]]

    def collect(self) -> Iterator[Update]:
        """Yield what is new; ends when there is nothing more at present.

        What was printed before an event is told before it, so a run's end comes after its last
        word. However fast a job prints, no event waits for what it prints meanwhile.
        """
        while True:
            events = self.read_events(self.cursor.sequence, EVENTS_AT_ONCE)
            for run in self.logs:
                for log, end in self.list_logs(run).items():
                    yield from self._collect_log(run, log, end)
            for event in events:
                self.cursor.sequence = event.sequence
                yield RecordChanged(str(self.cursor), event)
            if not events:
                return

    def _collect_log(self, run: str, log: str, end: int) -> Iterator[Update]:
        offset = self.cursor.offsets.get(log, 0)
        while offset < end and (frames := self.read_log(log, offset, LOG_BYTES_AT_ONCE)):
            for frame in frames:
                offset = self.cursor.offsets[log] = frame.next_offset
                yield LogWritten(str(self.cursor), run, log, frame)


def encode(update: Update) -> bytes:
    """Return *update* as one server-sent event."""
    match update:
        case RecordChanged():
            return _sse("record", _EVENT.dump_json(update.event, exclude_unset=True), update.cursor)
        case LogWritten():
            body = {"run": update.run, "log": update.log, **frame_to_json(update.frame)}
            return _sse("log", json.dumps(body).encode(), update.cursor)
        case Progressed():
            return _sse("progress", _PROGRESS.dump_json(update.progress))
        case UsageSeen():
            usage = _USAGE.dump_json(update.usage)
            return _sse(
                "usage", b'{"job":%s,"usage":%s}' % (json.dumps(update.job).encode(), usage)
            )
        case ServiceSeen():
            return _sse("service", _REPORT.dump_json(update.report, exclude_unset=True))
        case CaughtUp():
            return _sse("caught-up", b"{}", update.cursor)


def decode(kind: str, data: str, cursor: str) -> Update | None:
    """Return the update that `encode` made into an event; None for a kind of a later version."""
    match kind:
        case "record":
            return RecordChanged(cursor, _EVENT.validate_json(data))
        case "log":
            body = json.loads(data)
            return LogWritten(cursor, body["run"], body["log"], frame_from_json(body))
        case "progress":
            return Progressed(_PROGRESS.validate_json(data))
        case "usage":
            body = json.loads(data)
            return UsageSeen(body["job"], _USAGE.validate_python(body["usage"]))
        case "service":
            return ServiceSeen(_REPORT.validate_json(data))
        case "caught-up":
            return CaughtUp(cursor)
        case _:
            return None


def frame_to_json(frame: Frame) -> dict[str, Any]:
    """Return the frame as JSON can carry it."""
    return {
        "offset": frame.offset,
        "next": frame.next_offset,
        "stream": frame.stream.value,
        "at": frame.at.timestamp(),
        "data": base64.b64encode(frame.payload).decode("ascii"),
    }


def frame_from_json(body: dict[str, Any]) -> Frame:
    """Return the frame that `frame_to_json` wrote."""
    return Frame(
        offset=body["offset"],
        next_offset=body["next"],
        stream=Stream(body["stream"]),
        at=datetime.fromtimestamp(body["at"], timezone.utc),
        payload=base64.b64decode(body["data"]),
    )


def _sse(kind: str, data: bytes, cursor: str | None = None) -> bytes:
    head = f"id: {cursor}\n" if cursor is not None else ""
    return f"{head}event: {kind}\n".encode() + b"data: " + data + b"\n\n"
