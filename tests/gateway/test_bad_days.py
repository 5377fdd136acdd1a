"""Bad days of the gateway's process: who is not concerned notices nothing, who is, is told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.gateway.process_ground import (
    DEADLINE,
    TOKEN,
    Gateway,
    free_port,
    ok,
    replica,
    until,
    workers_of,
)

pytestmark = pytest.mark.slow

T = TypeVar("T")


def run(story: Coroutine[Any, Any, T], seconds: float = DEADLINE) -> T:
    return asyncio.run(asyncio.wait_for(story, seconds))


async def until_true(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.01)


class Line:
    """A client's connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def ask(self, path: str, host: str = "127.0.0.1", token: str | None = None) -> None:
        """Send a GET."""
        given = f"Authorization: Bearer {token}\r\n" if token else ""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{given}\r\n".encode())

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read an answer whose length is told."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])
        }
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split()[1]), headers, body

    async def get(self, path: str, **options: Any) -> tuple[int, dict[str, str], bytes]:
        self.ask(path, **options)
        return await self.answer()


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


class Traffic:
    """Clients that ask one path again and again, and what they were answered."""

    def __init__(self, port: int, path: str, token: str | None = None) -> None:
        self._port = port
        self._path = path
        self._token = token
        self.outcomes: Counter[int | str] = Counter()

    async def keep_asking(self) -> None:
        while True:
            try:
                async with line_to(self._port) as line:
                    while True:
                        status, headers, _ = await line.get(self._path, token=self._token)
                        self.outcomes[status] += 1
                        if headers.get("connection") == "close":
                            break
            except (OSError, EOFError) as error:
                self.outcomes[type(error).__name__] += 1

    @contextmanager
    def from_clients(self, count: int) -> Iterator[None]:
        """Have so many clients ask, in a thread of their own."""

        async def ask() -> None:
            tasks = [asyncio.create_task(self.keep_asking()) for _ in range(count)]
            await asyncio.to_thread(ended.wait)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        ended = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(ask()))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def await_more(self, count: int = 50) -> None:
        """Return once so many more good answers have come."""
        wanted = self.outcomes[200] + count
        until(lambda: self.outcomes[200] >= wanted)


def memory_of(pid: int) -> int:
    """Return how many bytes a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_no_request_is_lost_while_engines_come_and_go(gateway: Gateway) -> None:
    with replica() as web:
        gateway.publish("web", web.port)
        gateway.await_ready("web")
        traffic = Traffic(gateway.port, "/services/web/")
        with traffic.from_clients(8):
            for _ in range(5):
                traffic.await_more()
                gateway.link.stop()
                traffic.await_more()
                gateway.connect()
                gateway.tell()
        assert set(traffic.outcomes) == {200}


def test_no_request_is_lost_while_replicas_are_replaced_one_by_one(gateway: Gateway) -> None:
    with contextlib.ExitStack() as running:
        old = [running.enter_context(replica()) for _ in range(3)]
        new = [running.enter_context(replica()) for _ in range(3)]
        gateway.publish("web", *(each.port for each in old))
        gateway.await_ready("web", 3)
        traffic = Traffic(gateway.port, "/services/web/")
        with traffic.from_clients(8):
            for number in range(3):
                serving = [*new[: number + 1], *old[number + 1 :]]
                gateway.publish("web", *(each.port for each in serving))
                gateway.await_ready("web", 3)
                traffic.await_more()
        assert set(traffic.outcomes) == {200}
        assert all(each.requests for each in new)


def test_what_is_asked_of_a_dead_replica_waits_for_its_successor(gateway: Gateway) -> None:
    with contextlib.ExitStack() as running:
        dying = running.enter_context(replica())
        gateway.publish("web", dying.port)
        gateway.await_ready("web")
        traffic = Traffic(gateway.port, "/services/web/")
        with traffic.from_clients(6):
            for _ in range(4):
                traffic.await_more()
                dying.die()
                until(lambda: gateway.report.services[0].held == 6)
                dying = running.enter_context(replica())
                gateway.publish("web", dying.port)
            traffic.await_more()
        assert set(traffic.outcomes) == {200}


def test_a_killed_gateway_is_back_under_load_and_then_loses_nothing(gateway: Gateway) -> None:
    with replica() as web:
        gateway.publish("web", web.port)
        gateway.await_ready("web")
        pid, port = gateway.pid, gateway.port
        traffic = Traffic(port, "/services/web/")
        with traffic.from_clients(4):
            traffic.await_more()
            (worker,) = workers_of(pid)
            os.kill(pid, signal.SIGKILL)
            os.kill(worker, signal.SIGKILL)
            until(lambda: gateway.link.report is not None and gateway.pid != pid)
            gateway.await_ready("web")
            traffic.await_more()
            traffic.outcomes.clear()
            traffic.await_more()
        assert set(traffic.outcomes) == {200}
        assert gateway.port == port


def test_who_asks_a_worker_whose_gateway_was_killed_is_answered_and_sent_elsewhere(
    gateway: Gateway,
) -> None:
    async def story() -> None:
        async with line_to(gateway.port) as idle, line_to(gateway.port) as uploading:
            async with line_to(gateway.port) as kept:
                for line in (idle, kept):
                    status, headers, _ = await line.get("/services/web/")
                    assert (status, headers.get("connection")) == (200, None)
                head = (
                    "POST /services/web/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n"
                )
                uploading.writer.write(f"{head}first".encode())
                await until_true(lambda: len(web.requests) == 3)

                os.kill(gateway.pid, signal.SIGKILL)
                await asyncio.to_thread(until, lambda: "may finish" in gateway.log())

                status, headers, _ = await kept.get("/services/web/")
                assert (status, headers["connection"]) == (200, "close")
                assert await kept.reader.read() == b""
            assert await idle.reader.read() == b""

            uploading.writer.write(b"whole")
            status, headers, _ = await uploading.answer()
            assert (status, headers["connection"]) == (200, "close")

    def take(connection: socket.socket, head: bytes) -> None:
        body = head.partition(b"\r\n\r\n")[2]
        while head.startswith(b"POST") and not body.endswith(b"whole"):
            body += connection.recv(100)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with replica(take) as web:
        gateway.publish("web", web.port)
        gateway.await_ready("web")
        run(story())


def test_a_killed_worker_costs_only_what_it_was_answering(gateway: Gateway) -> None:
    with replica() as web:
        gateway.publish("web", web.port)
        gateway.await_ready("web")
        traffic = Traffic(gateway.port, "/services/web/")
        with traffic.from_clients(4):
            for _ in range(3):
                traffic.await_more()
                (worker,) = workers_of(gateway.pid)
                os.kill(worker, signal.SIGKILL)
                until(lambda gone=worker: workers_of(gateway.pid) not in ([], [gone]))  # type: ignore[misc]
            traffic.await_more()
        lost = sum(count for outcome, count in traffic.outcomes.items() if outcome != 200)
        assert lost <= 3 * 4  # each death breaks each client's connection once


def test_a_replica_killed_in_mid_stream_cuts_its_streams_and_no_others(gateway: Gateway) -> None:
    def stream(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n")
        go_on.wait(DEADLINE)
        connection.sendall(b"4\r\nmore\r\n0\r\n\r\n")

    async def story() -> None:
        async with line_to(gateway.port) as one, line_to(gateway.port) as other:
            for each in (one, other):
                each.ask("/services/web/")
                await each.reader.readuntil(b"four\r\n")
            dying, living = (first, second) if len(first.requests) == 1 else (second, first)
            assert len(living.requests) == 1
            dying.die()
            cut = await first_to_end(one, other)
            go_on.set()
            rest = await (other if cut is one else one).reader.readuntil(b"0\r\n\r\n")
            assert rest == b"4\r\nmore\r\n0\r\n\r\n"

    async def first_to_end(*lines: Line) -> Line:
        """Return the line that is cut: closed without the end of its answer."""
        reads = {asyncio.create_task(each.reader.read(100)): each for each in lines}
        done, pending = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        (read,) = done
        assert read.result() == b""
        return reads[read]

    go_on = threading.Event()
    with replica(stream) as first, replica(stream) as second:
        gateway.publish("web", first.port, second.port)
        gateway.await_ready("web", 2)
        run(story())


def test_a_replica_that_never_answers_hurts_only_those_who_asked_it(gateway: Gateway) -> None:
    def never(connection: socket.socket, head: bytes) -> None:
        closed.append(connection.recv(1) == b"")

    closed: list[bool] = []

    async def story() -> None:
        async with contextlib.AsyncExitStack() as opened:
            waiting = [await opened.enter_async_context(line_to(gateway.port)) for _ in range(20)]
            for each in waiting:
                each.ask("/services/stuck/")
            await until_true(lambda: len(stuck.requests) == 20)
            other = await opened.enter_async_context(line_to(gateway.port))
            for _ in range(200):
                assert (await other.get("/services/web/"))[0] == 200
            assert not closed
        # The clients have gone: the replica is not kept busy any longer.
        await until_true(lambda: len(closed) == 20)
        assert all(closed)

    with replica(never) as stuck, replica() as web:
        gateway.publish("stuck", stuck.port)
        gateway.publish("web", web.port)
        gateway.await_ready("stuck")
        gateway.await_ready("web")
        run(story())
        until(lambda: [s.in_flight for s in gateway.report.services] == [0, 0])


def test_who_waits_for_a_replica_that_never_comes_is_told_and_the_queue_is_bounded(
    gateway: Gateway,
) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as opened:
            lines = [await opened.enter_async_context(line_to(gateway.port)) for _ in range(1000)]
            for each in lines:
                each.ask("/services/web/")
            await until_true(lambda: gateway.report.services[0].held == 1000)
            extra = await opened.enter_async_context(line_to(gateway.port))
            status, headers, body = await extra.get("/services/web/")
            assert (status, headers["x-dstack-gateway"]) == (503, "no_replica")
            assert int(headers["retry-after"]) > 0
            assert b"1000 requests already wait" in body
            status, _, _ = await extra.get("/services/other/")
            assert status == 200

            why = "replica 0 failed: exit code 3"
            await asyncio.to_thread(gateway.publish, "web", holds=False, trouble=why)
            for each in lines:
                status, headers, body = await each.answer()
                assert (status, why.encode() in body) == (503, True)
                assert "retry-after" in headers

    with replica() as other:
        gateway.publish("web")
        gateway.publish("other", other.port)
        gateway.await_ready("other")
        run(story())


def test_who_waits_in_a_gateway_that_ends_is_told_to_try_again(gateway: Gateway) -> None:
    async def story() -> None:
        async with line_to(gateway.port) as waiting:
            waiting.ask("/services/web/")
            await until_true(lambda: gateway.report.services[0].held == 1)
            os.kill(gateway.pid, signal.SIGKILL)
            status, headers, _ = await waiting.answer()
            assert (status, headers["x-dstack-gateway"]) == (503, "no_replica")
            assert "retry-after" in headers

    gateway.publish("web")
    run(story())


def test_held_requests_are_answered_by_the_first_replica_that_comes(gateway: Gateway) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as opened:
            lines = [await opened.enter_async_context(line_to(gateway.port)) for _ in range(50)]
            for each in lines:
                each.ask("/services/web/")
            await until_true(lambda: gateway.report.services[0].held == 50)
            with replica(port=port):
                for each in lines:
                    assert (await each.answer())[0] == 200

    port = free_port()
    gateway.publish("web", port)
    run(story())


def test_clients_that_never_finish_their_requests_hurt_nobody(gateway: Gateway) -> None:
    async def drip(line: Line) -> None:
        for letter in b"GET /services/web/ HTTP/1.1\r\nX-Slow: " + b"s" * 1000:
            line.writer.write(bytes([letter]))
            await asyncio.sleep(0.05)

    async def story() -> None:
        async with contextlib.AsyncExitStack() as opened:
            slow = [await opened.enter_async_context(line_to(gateway.port)) for _ in range(300)]
            dripping = [asyncio.create_task(drip(each)) for each in slow]
            async with line_to(gateway.port) as quick:
                for _ in range(300):
                    assert (await quick.get("/services/web/"))[0] == 200
            for each in dripping:
                each.cancel()

    with replica() as web:
        gateway.publish("web", web.port)
        gateway.await_ready("web")
        run(story())
        assert len(web.requests) == 300


@pytest.mark.soak
def test_clients_that_never_finish_their_requests_are_cut_off_in_the_end(gateway: Gateway) -> None:
    async def story() -> None:
        async with line_to(gateway.port) as slow, line_to(gateway.port) as silent:
            slow.writer.write(b"GET / HTTP/1.1\r\nX-Sl")
            assert await slow.reader.read() == b""
            assert await silent.reader.read() == b""

    gateway.publish("web")
    run(story(), 120)


@pytest.mark.parametrize(
    "count", [5_000, pytest.param(100_000, marks=pytest.mark.soak)], ids=["some", "very many"]
)
def test_wrong_tokens_are_refused_and_slow_nobody(gateway: Gateway, count: int) -> None:
    """Every client has its turn: who has the right token is answered about as often as each of
    those who have not, though its answers come from a replica."""

    async def guess(number: int) -> None:
        async with line_to(gateway.port) as line:
            for tried in range(count // 10):
                token = f"{TOKEN}-{number}-{tried}"
                status, headers, _ = await line.get("/services/web/", token=token)
                assert (status, headers["x-dstack-gateway"]) == (401, "invalid_api_key")

    async def ask() -> None:
        async with line_to(gateway.port) as line:
            while True:
                status, _, _ = await line.get("/services/web/", token=TOKEN)
                assert status == 200
                answered.append(status)

    async def story() -> None:
        asking = asyncio.create_task(ask())
        await asyncio.gather(*(guess(number) for number in range(10)))
        assert not asking.done()
        asking.cancel()

    answered: list[int] = []
    with replica(ok()) as web:
        gateway.publish("web", web.port, auth=True)
        gateway.await_ready("web")
        run(story(), 600)
        assert len(answered) > count // 10 // 4
        assert len(web.requests) - len(answered) in (0, 1)
        until(lambda: gateway.report.services[0].requests >= len(answered))
        # Whoever has no token is no load: nothing is scaled up for guesses.
        assert gateway.report.services[0].requests <= len(answered) + 1


@pytest.mark.parametrize(
    "count", [1_000, pytest.param(10_000, marks=pytest.mark.soak)], ids=["some", "very many"]
)
def test_wrong_hosts_are_refused_and_leave_nothing_behind(gateway: Gateway, count: int) -> None:
    async def ask(numbers: range) -> None:
        async with line_to(gateway.port) as line:
            for number in numbers:
                host = f"{number}.rebound.example"
                status, headers, _ = await line.get("/services/web/", host=host)
                assert (status, headers["x-dstack-gateway"]) == (421, "misdirected")
                if headers.get("connection") == "close":
                    line.reader, line.writer = await asyncio.open_connection(
                        "127.0.0.1", gateway.port
                    )

    with replica() as web:
        gateway.publish("web", web.port)
        gateway.await_ready("web")
        (worker,) = workers_of(gateway.pid)
        run(ask(range(200)))
        before = memory_of(worker)
        run(ask(range(200, count)))
        assert memory_of(worker) - before < 8 << 20
        assert web.requests == []
        assert gateway.get("/services/web/")[0] == 200


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_in_whatever_order_all_is_well_again_in_the_end(
    home: Path, seed: int
) -> None:
    """Engines come and go, replicas die and are drained, workers and gateways are killed."""
    lot = random.Random(seed)
    deaths = 0
    gateway = Gateway(home, processes=2)
    with contextlib.ExitStack() as running:
        running.callback(gateway.close)
        replicas = [running.enter_context(replica()) for _ in range(3)]

        def publish() -> None:
            gateway.publish("web", *(each.port for each in replicas))

        publish()
        gateway.await_ready("web", 3)
        traffic = Traffic(gateway.port, "/services/web/")
        with traffic.from_clients(6):
            for _ in range(40):
                match lot.choice(("engine", "worker", "gateway", "replica", "replaced", "calm")):
                    case "engine":
                        gateway.link.stop()
                        gateway.connect()
                    case "worker":
                        os.kill(lot.choice(workers_of(gateway.pid)), signal.SIGKILL)
                        deaths += 1
                    case "gateway":
                        pid = gateway.pid
                        os.kill(pid, signal.SIGKILL)
                        until(lambda gone=pid: gateway.link.report and gateway.pid != gone)  # type: ignore[misc]
                        deaths += 1
                    case "replica":
                        replicas.pop(0).die()
                        replicas.append(running.enter_context(replica()))
                    case "replaced":
                        replicas.append(running.enter_context(replica()))
                        replicas.pop(0)
                publish()
                gateway.await_ready("web", 3)
                traffic.await_more()
            traffic.outcomes.clear()
            traffic.await_more(200)
        assert set(traffic.outcomes) == {200}
        until(
            lambda: (
                (gateway.report.services[0].in_flight, gateway.report.services[0].held) == (0, 0)
            )
        )
        assert deaths > 3
