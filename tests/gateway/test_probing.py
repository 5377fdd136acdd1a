"""Whether a replica answers is found out quickly, and from what it really says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic

import aiohttp
import pytest
from aiohttp import web

from dstack_engine.gateway.probing import Pace, Prober, Unwell, look
from dstack_engine.gateway.replicas import Replica
from dstack_engine.records.publication import PublishedReplica, ReplicaState
from dstack_engine.spec.services import Header, Probe
from tests.gateway.front_ground import run, until
from tests.hosts.engines import Engine

#: Quick, and with time enough for a busy computer to close a connection.
PACE = Pace(first=0.01, longest=0.05, silence=0.3, bare=0.3)
QUICK = Probe.model_construct(url="/health", interval=0.05)


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack_engine.gateway.replicas.FIRST_REST", 0.05)


Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class App:
    """A program that answers its probes as it is told, and notes how it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.asked: list[tuple[str, str, str, bytes]] = []
        self.after = 0.0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        kind = request.headers.get("X-Kind", "")
        self.asked.append((request.method, request.path, kind, await request.read()))
        await asyncio.sleep(self.after)
        return web.Response(status=self.status)


@asynccontextmanager
async def listening(app: Answer, port: int = 0) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(
        web.Server(app, access_log=None), "127.0.0.1", port
    )
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()


@asynccontextmanager
async def behind(handler: Handler) -> AsyncIterator[int]:
    """Listen with something that is no HTTP server."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def watched(port: int, *probes: Probe) -> AsyncIterator[Replica]:
    prober, replica = Prober(PACE), Replica(PublishedReplica("web-0-0/1", "127.0.0.1", port))
    prober.watch(replica, probes)
    try:
        yield replica
    finally:
        await prober.close()


async def free_port() -> int:
    async with listening(App()) as port:
        return port


async def closes_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Do as Docker's port forwarding does while nothing listens in the container."""
    writer.close()


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def closes_on_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


def is_ready(replica: Replica) -> Callable[[], bool]:
    return lambda: replica.state is ReplicaState.READY


def is_out(replica: Replica) -> Callable[[], bool]:
    return lambda: replica.state is ReplicaState.EJECTED


def test_a_program_that_begins_to_listen_is_ready_at_once() -> None:
    async def story() -> None:
        port = await free_port()
        async with watched(port) as replica:
            await until(lambda: replica.trouble == "connection refused")
            assert replica.state is ReplicaState.PROBING
            async with listening(App(), port):
                await until(is_ready(replica))
            assert replica.trouble is None

    run(story())


@pytest.mark.parametrize("status", [200, 401, 404, 405, 500])
def test_any_answer_proves_that_somebody_listens(status: int) -> None:
    async def story() -> None:
        app = App()
        app.status = status
        async with listening(app) as port:
            await look("127.0.0.1", port, PACE)
        assert [(method, path) for method, path, _, _ in app.asked] == [("HEAD", "/")]

    run(story())


def test_a_forwarded_port_behind_which_nobody_listens_is_not_ready() -> None:
    async def story() -> None:
        async with behind(closes_at_once) as port:
            with pytest.raises(Unwell, match="closes the connection at once") as unwell:
                await look("127.0.0.1", port, PACE)
            assert not unwell.value.reachable
            async with watched(port) as replica:
                await until(lambda: replica.trouble is not None)
                assert replica.state is ReplicaState.PROBING

    run(story())


@pytest.mark.docker
def test_a_container_is_ready_when_its_program_listens_and_not_when_docker_does(
    docker_engine: Engine, busybox_image: str
) -> None:
    async def story(port: int) -> None:
        async with watched(port) as replica:
            # Docker takes connections for the container already, and closes them.
            await until(lambda: replica.trouble == "it closes the connection at once")
            assert replica.state is ReplicaState.PROBING
            assert container.exec_run(["touch", "/go"]).exit_code == 0
            await until(is_ready(replica))
            async with (
                aiohttp.ClientSession() as client,
                client.post(f"{replica.base}/nothing", data=b"x") as answer,
            ):
                assert answer.status >= 400

    wait = "until [ -e /go ]; do sleep 0.01; done; exec httpd -f -p 8000"
    container = docker_engine.client.containers.run(
        busybox_image, ["sh", "-c", wait], ports={"8000/tcp": ("127.0.0.1", 0)}, detach=True
    )
    try:
        container.reload()
        (published,) = container.ports["8000/tcp"] or []
        run(story(int(published["HostPort"])))
    finally:
        container.remove(force=True)


def test_a_busy_program_that_takes_connections_is_ready() -> None:
    async def story() -> None:
        async with behind(says_nothing) as port:
            await look("127.0.0.1", port, PACE)

    run(story())


def test_a_program_that_dislikes_a_head_is_ready_all_the_same() -> None:
    async def story() -> None:
        async with behind(closes_on_http) as port:
            await look("127.0.0.1", port, PACE)

    run(story())


def test_without_probes_a_ready_replica_is_left_alone_until_a_request_fails() -> None:
    async def story() -> None:
        app = App()
        async with listening(app) as port, watched(port) as replica:
            await until(is_ready(replica))
            await asyncio.sleep(0.1)
            assert len(app.asked) == 1
            replica.begin()
            replica.end(failed=True)
            await until(lambda: len(app.asked) == 2)
            assert replica.state is ReplicaState.READY

    run(story())


def test_a_replica_whose_program_has_died_is_out_after_one_failed_request_and_back_with_it() -> (
    None
):
    async def story() -> None:
        port = await free_port()
        async with watched(port) as replica:
            async with listening(App(), port):
                await until(is_ready(replica))
            replica.begin()
            replica.end(failed=True)
            await until(is_out(replica))
            assert (replica.trouble, replica.reachable) == ("connection refused", False)
            async with listening(App(), port):
                await until(is_ready(replica))

    run(story())


def test_a_probe_asks_as_it_is_told_to() -> None:
    probe = Probe(
        url="/v1/check?deep=1",
        method="post",
        headers=(Header(name="X-Kind", value="probe"),),
        body='{"ping": "ä"}',
    )

    async def story() -> None:
        app = App()
        async with listening(app) as port, watched(port, probe) as replica:
            await until(is_ready(replica))
        assert app.asked == [("POST", "/v1/check", "probe", '{"ping": "ä"}'.encode())]

    run(story())


@pytest.mark.parametrize("status", [302, 404, 500, 503])
def test_a_probe_that_is_answered_badly_says_so_and_the_replica_is_not_ready(status: int) -> None:
    async def story() -> None:
        app = App()
        app.status = status
        async with listening(app) as port, watched(port, QUICK) as replica:
            await until(lambda: len(app.asked) >= 3)
            assert replica.state is ReplicaState.PROBING
            assert replica.trouble == f"the probe /health answers {status}"
            app.status = 204
            await until(is_ready(replica))

    run(story())


def test_a_probe_without_an_answer_in_time_is_a_bad_one() -> None:
    async def story() -> None:
        app = App()
        app.after = 30
        probe = Probe(url="/slow", timeout=1)
        async with listening(app) as port, watched(port, probe) as replica:
            await until(lambda: replica.trouble is not None)
            assert replica.trouble == "the probe /slow has no answer after 1 s"
            assert replica.reachable

    run(story())


def test_readiness_takes_as_many_good_answers_in_a_row_as_asked_for() -> None:
    probe = Probe(url="/", ready_after=3)

    async def story() -> None:
        good: list[bool] = []

        async def moody(request: web.BaseRequest) -> web.StreamResponse:
            good.append(len(good) not in (0, 3))  # bad, good, good, bad, good, good, good
            return web.Response(status=200 if good[-1] else 500)

        async with listening(moody) as port, watched(port, probe) as replica:
            await until(is_ready(replica))
            assert good == [False, True, True, False, True, True, True]

    run(story())


def test_all_probes_have_to_be_answered_well() -> None:
    async def story() -> None:
        one, other = App(), App()
        other.status = 500

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            return await (one if request.path == "/one" else other)(request)

        probes = (Probe(url="/one"), Probe(url="/other"))
        async with listening(answer) as port, watched(port, *probes) as replica:
            await until(lambda: bool(one.asked) and len(other.asked) > 3)
            assert replica.state is ReplicaState.PROBING
            other.status = 200
            await until(is_ready(replica))

    run(story())


def test_a_ready_replica_goes_on_being_probed_and_is_put_out_and_back() -> None:
    async def story() -> None:
        app = App()
        async with listening(app) as port, watched(port, QUICK) as replica:
            await until(is_ready(replica))
            app.status = 503
            await until(is_out(replica))
            assert replica.trouble == "the probe /health answers 503"
            assert replica.reachable
            app.status = 200
            await until(is_ready(replica))

    run(story())


def test_one_bad_answer_of_a_ready_replica_is_forgiven() -> None:
    async def story() -> None:
        app = App()
        async with listening(app) as port, watched(port, QUICK) as replica:
            await until(is_ready(replica))
            app.status = 503
            known = len(app.asked)
            await until(lambda: len(app.asked) > known)
            app.status = 200
            await until(lambda: len(app.asked) > known + 2)
            assert replica.state is ReplicaState.READY

    run(story())


def test_a_probe_until_ready_is_not_asked_again_but_after_an_ejection() -> None:
    probe = Probe.model_construct(url="/health", interval=0.05, until_ready=True)

    async def story() -> None:
        app = App()
        async with listening(app) as port, watched(port, probe) as replica:
            await until(is_ready(replica))
            begun = monotonic()
            await until(lambda: monotonic() - begun > 0.3)
            assert len(app.asked) == 1
            for _ in range(3):
                replica.begin()
                replica.end(failed=True)
            assert replica.state is ReplicaState.EJECTED
            await until(is_ready(replica))
            assert len([path for _, path, _, _ in app.asked if path == "/health"]) == 2

    run(story())


def test_a_probe_that_can_never_be_asked_leaves_its_reason() -> None:
    async def story() -> None:
        probe = Probe(url="/", headers=(Header(name="X", value="a\r\nb"),))
        async with listening(App()) as port, watched(port, probe) as replica:
            await until(lambda: replica.trouble is not None)
            assert replica.trouble is not None
            assert replica.trouble.startswith("the probe /")

    run(story())


def test_who_waits_for_a_start_waits_little_longer_than_it_takes() -> None:
    pace = Pace()
    assert [pace.after(seconds) for seconds in (0, 1, 4, 10, 3600)] == [0.05, 0.05, 0.2, 0.5, 1.0]


def test_nothing_is_asked_any_longer_of_a_replica_that_is_forgotten() -> None:
    async def story() -> None:
        prober = Prober(PACE)
        replica = Replica(PublishedReplica("web-0-0/1", "127.0.0.1", await free_port()))
        prober.watch(replica, ())
        (task,) = prober._tasks.values()
        prober.forget(replica)
        prober.forget(replica)
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await prober.close()

    run(story())
