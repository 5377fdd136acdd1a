"""Answers that go on: the event stream, a log that is followed, a command's output.

The API hands them to the server; each wakes by the engine's bell (`live`) and ends with its
connection.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from dstack_engine.engine import Engine
from dstack_engine.errors import DstackError
from dstack_engine.records.events import Frame, Stream
from dstack_engine.records.jobs import Job
from dstack_engine.records.updates import CaughtUp, Progressed, ServiceSeen, UsageSeen
from dstack_engine.streams import Feed, encode, frame_to_json

#: The stream says something at least so often (seconds), so that a dead connection is noticed.
HEARTBEAT = 15.0


async def stream_events(engine: Engine, feed: Feed) -> AsyncIterator[bytes]:
    """Yield the event stream of one client, endless, from the feed's cursor on."""
    woken, subscription = _listen(engine)
    try:
        caught_up = False
        while True:
            woken.clear()
            news = subscription.take()
            for one in news.progress:
                yield encode(Progressed(one))
            for job, measured in news.usage.items():
                yield encode(UsageSeen(job, measured))
            for report in news.services:
                yield encode(ServiceSeen(report))
            async for chunk in _batches(feed):
                yield chunk
            if not caught_up:
                caught_up = True
                yield encode(CaughtUp(str(feed.cursor)))
            try:
                await asyncio.wait_for(woken.wait(), HEARTBEAT)
            except asyncio.TimeoutError:
                yield b": still here\n\n"
    finally:
        engine.world.live.unsubscribe(subscription)


def _listen(engine: Engine) -> tuple[asyncio.Event, Any]:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake() -> None:
        if not woken.is_set() and not loop.is_closed():
            loop.call_soon_threadsafe(woken.set)

    return woken, engine.world.live.subscribe(wake)


async def _batches(feed: Feed) -> AsyncIterator[bytes]:
    updates = feed.collect()
    while batch := await run_in_threadpool(_encode_some, updates):
        yield batch


def _encode_some(updates: Iterator[Any]) -> bytes:
    parts: list[bytes] = []
    size = 0
    for update in updates:
        parts.append(encode(update))
        size += len(parts[-1])
        if size > 1 << 20:
            break
    return b"".join(parts)


def _line(body: object) -> bytes:
    return json.dumps(body).encode() + b"\n"


def read_log(engine: Engine, job: Job, offset: int) -> Iterator[bytes]:
    """Yield what lies in a job's log now, from *offset* on: a line for each frame."""
    while frames := engine.read_log(job.container, offset, 1 << 20):
        yield _printed(job, frames)
        offset = frames[-1].next_offset


def _printed(job: Job, frames: Sequence[Frame]) -> bytes:
    return b"".join(_line({**frame_to_json(frame), "job": job.id}) for frame in frames)


async def follow_log(
    engine: Engine,
    name: str,
    job: Job | None,
    offset: int,
    replica: int | None = None,
    node: int | None = None,
) -> AsyncIterator[bytes]:
    """Yield the output of one job, and of the attempts that follow it, until the run has ended.

    *job* is None for a run that has none yet; of a service one *replica* is followed, the first
    that runs if none is named, and of several nodes the first.
    """
    woken, subscription = _listen(engine)
    try:
        while True:
            woken.clear()
            view = await run_in_threadpool(engine.run, name)
            while job is not None and (
                frames := await run_in_threadpool(engine.read_log, job.container, offset, 1 << 20)
            ):
                offset = frames[-1].next_offset
                yield _printed(job, frames)
            unnamed = replica is None and node is None
            newest = view.job if unnamed else view.newest(replica or 0, node or 0)
            if newest is not None and (job is None or newest.container != job.container):
                job, offset, replica, node = newest, 0, newest.replica, newest.node
            elif view.finished:
                return
            else:
                try:
                    await asyncio.wait_for(woken.wait(), HEARTBEAT)
                except asyncio.TimeoutError:
                    yield b"\n"
    finally:
        engine.world.live.unsubscribe(subscription)


def run_command(engine: Engine, name: str, command: list[str]) -> Iterator[bytes]:
    """Run *command* in the run; yield its output, then its exit code or error, a line each."""
    output: queue.Queue[bytes | None] = queue.Queue(maxsize=64)

    def sink(stream: Stream, data: bytes) -> None:
        frame = Frame(0, 0, stream, engine.world.clock(), data)
        output.put(_line(frame_to_json(frame)))

    def run() -> None:
        try:
            output.put(_line({"exit_code": engine.execute(name, command, sink)}))
        except DstackError as error:
            body = {"code": error.code, "message": error.message, "hint": error.hint}
            output.put(_line({"error": body}))
        finally:
            output.put(None)

    threading.Thread(target=run, name=f"exec {name}", daemon=True).start()
    return iter(output.get, None)
