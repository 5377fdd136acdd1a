"""The private channel: what is told is served and kept, and what was seen is told at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from dstack_engine.gateway.address import connect_control, control_path
from dstack_engine.gateway.control import Control
from dstack_engine.gateway.messages import decode_report, encode_publication
from dstack_engine.gateway.state import KeptPublication
from dstack_engine.gateway.table import Table
from dstack_engine.home import Home
from dstack_engine.records.publication import (
    GatewayReport,
    ModelUsage,
    Publication,
    PublishedReplica,
    PublishedService,
)
from tests.gateway.front_ground import echo, ground, run, until

WEB = PublishedService("web", "id-web", replicas=(PublishedReplica("web-0-0/1", "127.0.0.1", 9),))
USAGE = ModelUsage("tiny", "01234567", requests=3, prompt_tokens=17)


class Worker:
    """A worker's control channel, and a client of it."""

    def __init__(self, home: Home, number: int = 0, processes: int = 1) -> None:
        self.stops = 0
        self.table = Table()
        self.control = Control(
            home,
            self.table,
            port=4180,
            worker=number,
            processes=processes,
            usage=lambda: (USAGE,),
            on_stop=self._stop,
        )
        self._path = control_path(home, number)

    def _stop(self) -> None:
        self.stops += 1

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return the status and the body of an answer."""
        reader, writer = await self.open(method, path, body)
        answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), rest

    async def open(
        self, method: str, path: str, body: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = connect_control(self._path, 0)
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        head = f"{method} {path} HTTP/1.0\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return reader, writer

    async def publish(self, publication: Publication, query: str = "") -> tuple[int, int]:
        """Tell a publication; return the status and the version that is served."""
        body = encode_publication(publication)
        status, answer = await self.ask("PUT", f"/publication{query}", body)
        return status, json.loads(answer)["version"]

    @asynccontextmanager
    async def reports(self) -> AsyncIterator[asyncio.StreamReader]:
        """Yield the stream of reports, behind its head."""
        reader, writer = await self.open("GET", "/reports")
        await reader.readuntil(b"\r\n\r\n")
        try:
            yield reader
        finally:
            writer.close()


async def next_report(reports: asyncio.StreamReader) -> GatewayReport:
    return decode_report(await reports.readline())


@asynccontextmanager
async def worker(home: Path, number: int = 0, processes: int = 1) -> AsyncIterator[Worker]:
    made = Worker(Home(home).make(), number, processes)
    await made.control.start()
    try:
        yield made
    finally:
        await made.control.close()
        await made.table.close()


def test_what_is_told_is_served_and_kept(home: Path) -> None:
    async def story() -> None:
        async with worker(home) as w:
            assert await w.publish(Publication(3, (WEB,))) == (200, 3)
            assert set(w.table.services) == {"web"}
        kept = KeptPublication(Home(home).gateway / "publication.json").load()
        assert kept == Publication(3, (WEB,))
        again = Worker(Home(home))
        again.control.load()
        assert set(again.table.services) == {"web"}
        await again.table.close()

    run(story())


def test_something_older_is_refused_unless_it_names_what_it_replaces(home: Path) -> None:
    async def story() -> None:
        async with worker(home) as w:
            await w.publish(Publication(8, (WEB,)))
            assert await w.publish(Publication(8, (WEB,))) == (200, 8)
            assert await w.publish(Publication(7)) == (409, 8)
            assert set(w.table.services) == {"web"}
            assert await w.publish(Publication(7), "?instead=8") == (200, 7)
            assert set(w.table.services) == set()

    run(story())


def test_a_new_engine_that_numbers_as_the_last_one_did_is_heard(home: Path) -> None:
    async def story() -> None:
        async with worker(home) as w:
            await w.publish(Publication(1, (WEB,)))
            assert await w.publish(Publication(1, (replace(WEB, run="other"),))) == (200, 1)
            assert set(w.table.services) == {"other"}

    run(story())


def test_what_is_no_publication_is_refused_and_changes_nothing(home: Path) -> None:
    async def story() -> None:
        async with worker(home) as w:
            for body in (b"", b"{", b"[]", b'{"version": "new"}'):
                status, _ = await w.ask("PUT", "/publication", body)
                assert status == 400, body
            assert w.table.version == -1

    run(story())


def test_the_socket_is_the_users_alone(home: Path) -> None:
    async def story() -> None:
        async with worker(home):
            path = control_path(Home(home), 0)
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700
        assert not path.exists()

    run(story())


def test_a_worker_that_ends_leaves_its_successors_socket_alone(home: Path) -> None:
    async def story() -> None:
        async with worker(home) as successor:
            async with worker(home) as old:
                await successor.control.close()
                await successor.control.start()
                assert (await old.ask("GET", "/usage"))[0] == 200
            assert (await successor.ask("GET", "/usage"))[0] == 200

    run(story())


def test_a_home_may_lie_deep(tmp_path: Path) -> None:
    async def story() -> None:
        async with worker(tmp_path / ("deep" * 20) / ("deeper" * 10)) as w:
            status, _ = await w.ask("GET", "/usage")
            assert status == 200

    run(story())


def test_reports_come_by_themselves_and_say_who_they_are_of(home: Path) -> None:
    async def story() -> None:
        async with worker(home) as w, w.reports() as reports:
            await w.publish(Publication(1, (WEB,)))
            seen = await next_report(reports)
            while seen.version < 1:
                seen = await next_report(reports)
            assert (seen.port, seen.models) == (4180, (USAGE,))
            assert [service.run for service in seen.services] == ["web"]
            assert w.control.heard
        await until(lambda: not w.control.heard)

    run(story())


def test_what_must_be_acted_on_is_told_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would be told for an hour, were it not urgent."""
    monkeypatch.setattr("dstack_engine.gateway.control.REPORT_EVERY", 3600.0)

    async def story() -> None:
        async with ground() as g, worker(home) as w, w.reports() as reports:
            assert (await next_report(reports)).services == ()
            replica = await g.replica(echo)
            await w.publish(Publication(1, (PublishedService("web", "id-web"),)))
            service = w.table.services["web"]

            held = asyncio.create_task(service.hold(service.arrive()))
            assert (await next_report(reports)).services[0].held == 1

            published = PublishedService("web", "id-web", replicas=(replica,))
            await w.publish(Publication(2, (published,)))
            answering = await held
            answering.begin()
            while (seen := await next_report(reports)).services[0].replicas[0].state != "ready":
                pass
            draining = replace(published, replicas=(replace(replica, draining=True),))
            await w.publish(Publication(3, (draining,)))
            while (seen := await next_report(reports)).services[0].replicas[0].in_flight != 1:
                pass
            assert seen.services[0].replicas[0].state == "draining"
            answering.end(failed=False)
            assert (await next_report(reports)).services[0].replicas[0].in_flight == 0

    run(story())


def test_a_worker_asks_its_siblings_what_they_saw(home: Path) -> None:
    async def story() -> None:
        async with worker(home, 0, 3) as first, worker(home, 2, 3) as third:
            await third.publish(Publication(9, (WEB,)))
            (answer,) = await first.control.siblings_usage()  # the second does not answer
            assert answer.version == 9
            assert answer.models == (USAGE,)

    run(story())


def test_who_asks_for_the_end_has_it(home: Path) -> None:
    async def story() -> None:
        async with worker(home) as w:
            status, _ = await w.ask("POST", "/stop")
            assert status == 202
            await until(lambda: w.stops == 1)

    run(story())


def test_it_speaks_plain_http(home: Path) -> None:
    async def story() -> None:
        async with worker(home) as w:
            connector = aiohttp.UnixConnector(str(w._path))
            async with aiohttp.ClientSession(connector=connector) as client:
                async with client.get("http://gateway/usage") as answer:
                    assert decode_report(await answer.read()).port == 4180
                async with client.get("http://gateway/elsewhere") as answer:
                    assert answer.status == 404

    run(story())
