"""One worker of the gateway: an event loop that answers what arrives at its socket.

`serving` forks it. It goes on until it is told to stop or its parent is gone; then it accepts
nothing more, finishes what it is answering, and ends.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import uvloop
from aiohttp import web

from dstack_engine.gateway.address import GatewayAddress
from dstack_engine.gateway.app import Doors, Front, make_server
from dstack_engine.gateway.control import Control
from dstack_engine.gateway.exposition import CONTENT_TYPE, render
from dstack_engine.gateway.limits import RateLimiter
from dstack_engine.gateway.listening import BACKLOG
from dstack_engine.gateway.metering import Ledger
from dstack_engine.gateway.models import Models
from dstack_engine.gateway.table import Table
from dstack_engine.home import Home

logger = logging.getLogger(__name__)

#: How long answers may take that are under way when a worker is told to end, in seconds.
DRAIN_LIMIT = 30.0
#: The same when another gateway takes over: nobody waits for this one.
HANDOVER_LIMIT = 600.0
#: How often a worker looks around: whether the gateway is still of use; in seconds.
LOOK_EVERY = 0.5
#: Seconds after which a gateway ends that has services and hears no engine, but has no replica
#: that is ready: nobody is there to start one, and who waits would wait in vain.
FORSAKEN_LIMIT = 3600.0


@dataclass(frozen=True)
class Post:
    """Where a worker works."""

    home: Home
    address: GatewayAddress
    number: int
    listener: socket.socket
    #: Readable once the parent is gone.
    lifeline: int
    #: Seconds after which a gateway ends that has no services and hears no engine.
    idle_limit: float
    #: Tells the parent that the event loop turns.
    beat: Callable[[], None]


def work(post: Post) -> int:
    """Be a worker until told to stop; return the exit status."""
    gc.enable()
    # Requests leave little garbage in cycles, and much that is none.
    gc.set_threshold(10_000, 20, 20)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(_Worker(post).run())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    return 0


class _Worker:
    def __init__(self, post: Post) -> None:
        self._post = post
        self._table = Table()
        self._ledger = Ledger()
        self._control = Control(
            post.home,
            self._table,
            port=post.address.port,
            pid=post.address.pid,
            worker=post.number,
            processes=post.address.processes,
            usage=self._ledger.usage,
            on_stop=lambda: self._end_gateway(signal.SIGHUP),
        )
        self._ending = asyncio.Event()
        self._drain_limit = DRAIN_LIMIT

    async def run(self) -> None:
        self._heed()
        self._control.load()
        limiter = RateLimiter()
        models = Models(self._table, self._ledger, limiter)
        front = Front(
            self._table, models=models.answer, metrics=self._tell_metrics, limiter=limiter
        )
        doors = make_server(front)
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(doors, sock=self._post.listener, backlog=BACKLOG)
        await self._control.start()
        looking = loop.create_task(self._look_around())
        logger.info("worker %d serves %d services", self._post.number, len(self._table.services))

        await self._ending.wait()
        looking.cancel()
        listening.close()
        self._table.send_away()
        await self._control.close()
        await self._drain(doors)
        await self._table.close()
        logger.info("worker %d has ended", self._post.number)

    def _heed(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end, DRAIN_LIMIT)
        loop.add_signal_handler(signal.SIGHUP, self._end, HANDOVER_LIMIT)
        # `serving` has kept them back until here.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        loop.add_reader(self._post.lifeline, self._be_orphaned)

    def _be_orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self._post.lifeline)
        self._end(HANDOVER_LIMIT)
        logger.warning("worker %d: the gateway's first process is gone", self._post.number)

    def _end(self, drain_limit: float) -> None:
        # A shorter word holds, though it comes later.
        already = self._ending.is_set()
        self._drain_limit = min(self._drain_limit, drain_limit) if already else drain_limit
        self._ending.set()

    def _end_gateway(self, word: signal.Signals) -> None:
        """Have the first process end all workers, this one among them."""
        if os.getppid() == self._post.address.pid:
            os.kill(self._post.address.pid, word)

    async def _drain(self, doors: Doors) -> None:
        """Let answers finish that are under way; cut what takes longer than the limit."""
        begun = monotonic()
        if doors.connections:
            count = len(doors.connections)
            logger.info("worker %d: %d connections may finish", self._post.number, count)
        await doors.drain(lambda: monotonic() - begun >= self._drain_limit)

    async def _look_around(self) -> None:
        """Beat, and end a gateway that is of no use to anybody."""
        limits = self._post.idle_limit, FORSAKEN_LIMIT
        useful = monotonic()
        while True:
            self._post.beat()
            if self._control.heard or any(s.replicas.ready for s in self._table.services.values()):
                useful = monotonic()
            limit = limits[bool(self._table.services)]
            if self._post.number == 0 and monotonic() - useful >= limit:
                logger.info("No engine, and nothing to serve: the gateway ends.")
                self._end_gateway(signal.SIGTERM)
                useful = monotonic()
            await asyncio.sleep(min(LOOK_EVERY, self._post.idle_limit))

    async def _tell_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        reports = [self._control.report(), *await self._control.siblings_usage()]
        return web.Response(body=render(reports).encode(), headers={"Content-Type": CONTENT_TYPE})
