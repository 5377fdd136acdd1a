"""Whether a replica answers: found out by the gateway itself, from the first moment on.

One task watches each replica. While it is not ready it is asked every 50 ms at first and every
second at last, so that a cold start waits for nothing. With `probes` it is ready once each of them
has been answered well as often in a row as it asks for, and it goes on being asked at their
interval. Without, it is ready once it is found to listen, and is looked at when a request fails.

That a connection is taken proves little: Docker's port forwarding takes it before the program
behind it listens, and closes it at once when nobody does. So without probes a `HEAD /` is sent, the
request that is harmless by definition; any bytes that come back prove that somebody listens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

import aiohttp

from dstack_engine.gateway.replicas import Replica
from dstack_engine.records.publication import ReplicaState
from dstack_engine.spec.services import Probe

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

#: What our questions call themselves.
USER_AGENT = "dstack-gateway"

#: Bad answers in a row with which a probe takes a ready replica out: one may be a hiccup.
BAD_ANSWERS = 2


@dataclass(frozen=True)
class Pace:
    """How quickly is probed; all in seconds."""

    #: Between two questions to a replica that is not ready: at first and at most, and in between
    #: a share of the time that has gone, so that nobody waits for it much longer than is needed.
    first: float = 0.05
    longest: float = 1.0
    share: float = 0.05
    #: How long a connection may take to be made.
    connect: float = 5.0
    #: A program that keeps a connection open so long without a word listens, but is busy.
    silence: float = 2.0
    #: One that closes on a `HEAD` may keep open a connection on which nothing is said.
    bare: float = 0.25

    def after(self, seconds: float) -> float:
        """Return how long to wait for the next question, *seconds* after the first."""
        return min(max(self.first, self.share * seconds), self.longest)


class Unwell(Exception):
    """What a question found: why the replica cannot be given requests."""

    def __init__(self, why: str, *, reachable: bool) -> None:
        super().__init__(why)
        self.why = why
        #: Whether it does take connections.
        self.reachable = reachable


class Prober:
    """The tasks that watch replicas; all in one event loop."""

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self._tasks: dict[Replica, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    def watch(self, replica: Replica, probes: Sequence[Probe]) -> None:
        """Watch *replica* with *probes* from now on, and no longer as before."""
        self.forget(replica)
        self._tasks[replica] = asyncio.get_running_loop().create_task(
            self._watch(replica, probes), name=f"probe {replica.job}"
        )

    def forget(self, replica: Replica) -> None:
        """Watch it no longer; a replica that is not watched is no error."""
        task = self._tasks.pop(replica, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Watch none any longer."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _watch(self, replica: Replica, probes: Sequence[Probe]) -> None:
        try:
            while True:
                await self._until_well(replica, probes)
                replica.suspect.clear()
                replica.ready()
                await self._until_ejected(replica, probes)
                await asyncio.sleep(replica.rest)
        except Exception:
            logger.exception("replica %s: it cannot be probed any longer", replica.job)
            replica.failing("the probing failed; the gateway's log says why", reachable=True)

    async def _until_well(self, replica: Replica, probes: Sequence[Probe]) -> None:
        if not probes:
            await self._until_good(replica, lambda: look(replica.host, replica.port, self._pace))
        else:
            questions = [self._until_probed(replica, probe) for probe in probes]
            await _together(questions, asyncio.FIRST_EXCEPTION)

    async def _until_probed(self, replica: Replica, probe: Probe) -> None:
        between = min(float(probe.interval), self._pace.longest)
        await self._until_good(
            replica, lambda: self._ask(replica, probe), in_row=probe.ready_after, between=between
        )

    async def _until_good(
        self,
        replica: Replica,
        question: Callable[[], Awaitable[None]],
        *,
        in_row: int = 1,
        between: float = 0.0,
    ) -> None:
        """Ask until *in_row* answers in a row are good, often at first and less so later."""
        begun, good = monotonic(), 0
        while True:
            try:
                await question()
            except Unwell as unwell:
                good = 0
                replica.failing(unwell.why, reachable=unwell.reachable)
            else:
                good += 1
                if good >= in_row:
                    return
            await asyncio.sleep(between if good else self._pace.after(monotonic() - begun))

    async def _until_ejected(self, replica: Replica, probes: Sequence[Probe]) -> None:
        kept = [probe for probe in probes if not probe.until_ready]
        ends = [self._look_when_suspect(replica)]
        ends += [self._probe_on(replica, probe) for probe in kept]
        await _together(ends, asyncio.FIRST_COMPLETED)

    async def _look_when_suspect(self, replica: Replica) -> None:
        """Look at once when a request fails; return when that, or requests alone, put it out."""
        while replica.state is ReplicaState.READY:
            await replica.suspect.wait()
            replica.suspect.clear()
            if replica.state is not ReplicaState.READY:
                return
            try:
                await look(replica.host, replica.port, self._pace)
            except Unwell as unwell:
                replica.failing(unwell.why, reachable=unwell.reachable)
                return
            await asyncio.sleep(self._pace.first)

    async def _probe_on(self, replica: Replica, probe: Probe) -> None:
        """Go on asking; return when its answers have put the replica out."""
        bad = 0
        while True:
            await asyncio.sleep(min(probe.interval, self._pace.longest) if bad else probe.interval)
            try:
                await self._ask(replica, probe)
                bad = 0
            except Unwell as unwell:
                bad += 1
                if bad >= BAD_ANSWERS or not unwell.reachable:
                    replica.failing(unwell.why, reachable=unwell.reachable)
                    return

    async def _ask(self, replica: Replica, probe: Probe) -> None:
        """Return if the probe's request is answered with 2xx; raise `Unwell`."""
        if self._session is None:
            # A connection of its own each time: that is what is to be found out.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT},
            )
        try:
            async with self._session.request(
                probe.method.upper(),
                replica.base + "/" + probe.url.lstrip("/"),
                headers=[(header.name, header.value) for header in probe.headers],
                data=None if probe.body is None else probe.body.encode(),
                timeout=aiohttp.ClientTimeout(total=probe.timeout, connect=self._pace.connect),
                allow_redirects=False,
            ) as answer:
                if not 200 <= answer.status < 300:
                    raise Unwell(f"the probe {probe.url} answers {answer.status}", reachable=True)
        except asyncio.TimeoutError:
            raise Unwell(
                f"the probe {probe.url} has no answer after {probe.timeout} s", reachable=True
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise Unwell(_reason(error.os_error), reachable=False) from None
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            raise Unwell("it closes the connection at once", reachable=False) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise Unwell(f"the probe {probe.url}: {error}", reachable=True) from None


async def look(host: str, port: int, pace: Pace) -> None:
    """Return if somebody listens at *port*; raise `Unwell` if not.

    Bytes in answer to `HEAD /` prove it, whatever they say. So does a connection that is kept open:
    on a program that is busy it stays silent.
    """
    request = (
        f"HEAD / HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: {USER_AGENT}\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    if await _keeps_or_answers(host, port, request.encode(), pace.connect, pace.silence):
        return
    if await _keeps_or_answers(host, port, b"", pace.connect, pace.bare):
        return  # it only dislikes a HEAD
    raise Unwell("it closes the connection at once", reachable=False)


async def _keeps_or_answers(
    host: str, port: int, said: bytes, connect: float, patience: float
) -> bool:
    try:
        reader, writer = await _within(asyncio.open_connection(host, port), connect)
    except asyncio.TimeoutError:
        raise Unwell(f"it takes no connection within {connect:.0f} s", reachable=False) from None
    except OSError as error:
        raise Unwell(_reason(error), reachable=False) from None
    try:
        writer.write(said)
        return bool(await _within(reader.read(1), patience))
    except asyncio.TimeoutError:
        return True
    except OSError:
        return False
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _within(work: Coroutine[Any, Any, _T], seconds: float) -> _T:
    """Return what *work* does; raise `asyncio.TimeoutError` if that takes longer than *seconds*.

    `asyncio.wait_for` forgets that it was cancelled when the work ends in that moment (before
    Python 3.12), and a replica that is forgotten would be probed for ever.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        task.cancel()


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or str(error)).lower()


async def _together(parts: Iterable[Coroutine[None, None, None]], until: str) -> None:
    """Run *parts* at once until *until* is true of them (as `asyncio.wait` means it); end all."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=until)
        for task in done:
            task.result()
    finally:
        pending = set(tasks)
        while pending:  # a `wait_for` that ends in this moment swallows the cancelling (3.11)
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # it has been told, or came too late to matter
