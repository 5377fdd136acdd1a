"""A run's output for the page: lines of JSON as they come, no faster than the page reads.

The engine's answer is read in a thread of its own, which ends at once when the page goes.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime

from jupyter_server.auth.decorator import authorized
from tornado import iostream, web

from dstack_engine.client import Client
from dstack_engine.connection import Leash
from dstack_engine.errors import DstackError
from dstack_engine.records.events import Frame, Stream
from dstack_jupyter.server.asking import DstackHandler, in_thread
from dstack_jupyter.session import session

MEDIA_TYPE = "application/x-ndjson"
#: What is read ahead of the page, and what one line holds, in bytes of output.
AHEAD = 1 << 20
PIECE = 1 << 18


class Reader:
    """Reads frames in a thread, so far ahead and no farther; its reader is on the loop."""

    def __init__(self, read: Callable[[Leash], object]) -> None:
        """Make it; *read* yields frames until its leash is cut, and runs in the thread."""
        self._read = read
        self._leash = Leash()
        self._loop = asyncio.get_running_loop()
        self._frames: deque[Frame] = deque()
        self._ahead = 0
        self._room = threading.Condition()
        self._news = asyncio.Event()
        self._ended = False
        self.error: DstackError | None = None

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, name="dstack-output", daemon=True).start()

    def end(self) -> None:
        """Read no more; may be called twice."""
        self._leash.cut()
        with self._room:
            self._room.notify_all()
        self._news.set()

    async def take(self) -> list[Frame]:
        """Return what has come, and wait for it; [] at the end."""
        while not self._leash.is_cut:
            self._news.clear()
            if taken := self._take_some():
                return taken
            if self._ended:
                return []
            await self._news.wait()
        return []

    def _take_some(self) -> list[Frame]:
        taken: list[Frame] = []
        size = 0
        with self._room:
            while self._frames and size < PIECE:
                taken.append(self._frames.popleft())
                size += len(taken[-1].payload)
            self._ahead -= size
            self._room.notify_all()
        return taken

    def _run(self) -> None:
        try:
            for frame in self._read(self._leash):  # type: ignore[attr-defined]
                with self._room:
                    self._room.wait_for(lambda: self._ahead < AHEAD or self._leash.is_cut)
                    self._frames.append(frame)
                    self._ahead += len(frame.payload)
                if self._leash.is_cut:
                    break
                self._ring()
        except DstackError as error:
            self.error = error
        finally:
            self._ended = True
            self._ring()

    def _ring(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the server has ended
            self._leash.cut()


class Pieces:
    """Makes frames into lines of JSON; a character may be cut in two between frames."""

    def __init__(self) -> None:
        """Begin a log."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def lines(self, frames: list[Frame]) -> bytes:
        """Return *frames* as lines; neighbours of one stream and one log are one line."""
        out: list[bytes] = []
        texts: list[str] = []
        last: Frame | None = None
        for frame in frames:
            follows = last is not None and frame.offset == last.next_offset
            if last is not None and not (follows and frame.stream is last.stream):
                out.append(_line("".join(texts), last))
                texts.clear()
            if frame.offset == 0:
                self._decoder.reset()  # another attempt's output begins
            texts.append(self._decoder.decode(frame.payload))
            last = frame
        if last is not None:
            out.append(_line("".join(texts), last))
        return b"".join(out)


def _line(text: str, last: Frame) -> bytes:
    at: datetime = last.at
    piece = {"offset": last.next_offset, "at": at.isoformat(), "text": text}
    if last.stream is not Stream.STDOUT:
        piece["stream"] = last.stream.value
    return json.dumps(piece).encode() + b"\n"


class LogsHandler(DstackHandler):
    """`GET runs/<name>/logs?offset=&follow=&tail=&replica=`: lines of JSON, a piece each."""

    _reader: Reader | None = None

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        """Answer the run's output; with `follow`, until the run has ended or the page goes."""
        offset, tail = self.read_number("offset") or 0, self.read_number("tail")
        replica, follow = self.read_number("replica"), self.read_switch("follow")
        client: Client = await in_thread(lambda: session().client(start=False))
        await in_thread(lambda: client.run(name))  # what is not there is told as an error

        def read(leash: Leash) -> object:
            return client.logs(
                name,
                offset=offset,
                follow=follow,
                tail_bytes=tail,
                replica=replica,
                leash=leash,
            )

        self._reader = Reader(read)
        self._reader.start()
        self.set_header("Content-Type", MEDIA_TYPE)
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        try:
            await self._send(self._reader, at_once=follow)
        finally:
            self._reader.end()

    async def _send(self, reader: Reader, *, at_once: bool) -> None:
        pieces = Pieces()
        try:
            if at_once:
                await self.flush()  # what is silent has begun to be followed, too
            while frames := await reader.take():
                self.write(pieces.lines(frames))
                await self.flush()
        except iostream.StreamClosedError:
            return
        if reader.error is None:
            self.finish(set_content_type=MEDIA_TYPE)
        elif self._headers_written:
            self.detach().close()  # so that it is no end, but a break, to who reads
        else:
            raise reader.error

    def on_connection_close(self) -> None:
        """Read no more for a page that has gone."""
        super().on_connection_close()
        if self._reader is not None:
            self._reader.end()
