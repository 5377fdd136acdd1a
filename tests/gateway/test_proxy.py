"""Requests and answers pass as they are, and a second time where that is safe."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from aiohttp import web

from dstack_engine.gateway import proxy
from dstack_engine.gateway.app import Front
from tests.gateway.front_ground import echo, ground, run, until


def test_a_request_reaches_the_replica_as_the_client_sent_it() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(echo))
            headers = {"X-Mixed-Case": "a b", "Cookie": "one=1; two=2", "TE": "trailers"}
            url = g.url("/a%20b/%C3%BC?x=1&y=%2F")
            async with client.patch(url, data=b"body\x00\xff", headers=headers) as answer:
                seen = json.loads(await answer.read())
            sent = {name.lower(): value for name, value in seen["headers"]}
            assert seen["method"] == "PATCH"
            assert seen["body"].encode("latin-1") == b"body\x00\xff"
            assert ["X-Mixed-Case", "a b"] in seen["headers"]
            assert sent["cookie"] == "one=1; two=2"
            assert sent["host"] == f"web.localhost:{g.port}"
            assert sent["x-forwarded-for"] == "127.0.0.1"
            assert sent["x-forwarded-proto"] == "http"
            assert sent["x-forwarded-host"] == f"web.localhost:{g.port}"
            assert "te" not in sent
            assert "connection" not in sent

    run(story())


def test_the_path_is_not_touched() -> None:
    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo))
            for target in ("/a%2Fb//c/./d?q=%20&r", "/%c3%bc", "/?", "/a;b=c"):
                rest = "HTTP/1.1\r\nHost: web.localhost\r\nConnection: close\r\n\r\n"
                raw = await g.send(f"GET {target} {rest}".encode())
                assert json.loads(raw.partition(b"\r\n\r\n")[2])["target"] == target

    run(story())


def test_an_answer_comes_back_with_its_status_reason_and_headers() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        made = web.Response(status=418, reason="Short and stout", body=b"tea")
        made.headers.add("Set-Cookie", "a=1")
        made.headers.add("Set-Cookie", "b=2; Path=/x")
        made.headers["X-Own"] = "yes"
        made.headers["Location"] = "/elsewhere"
        return made

    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(answer))
            async with client.get(g.url()) as got:
                assert (got.status, got.reason) == (418, "Short and stout")
                assert got.headers.getall("Set-Cookie") == ["a=1", "b=2; Path=/x"]
                assert got.headers["Location"] == "/elsewhere"
                assert got.headers["X-Own"] == "yes"
                assert "X-Dstack-Gateway" not in got.headers
                assert await got.read() == b"tea"

    run(story())


def test_below_its_path_a_service_is_told_its_prefix_and_its_redirects_stay_there() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        made = web.Response(status=302, text=request.headers["X-Forwarded-Prefix"])
        made.headers["Location"] = "/login"
        made.headers.add("Set-Cookie", "a=1; Path=/")
        made.headers.add("Set-Cookie", "b=2")
        return made

    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(answer))
            url = f"http://127.0.0.1:{g.port}/services/web/x"
            async with client.get(url, allow_redirects=False) as got:
                assert await got.text() == "/services/web"
                assert got.headers["Location"] == "/services/web/login"
                cookies = got.headers.getall("Set-Cookie")
                assert cookies == ["a=1; Path=/services/web/", "b=2; Path=/services/web/"]
            url = f"http://127.0.0.1:{g.port}/services/web"
            async with client.get(url, allow_redirects=False) as got:
                assert (got.status, got.headers["Location"]) == (308, "/services/web/")

    run(story())


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [200, 204, 304])
def test_answers_without_a_body_leave_the_connection_usable(method: str, status: int) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, headers={"ETag": '"e"'})

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(answer))
            asked = f"{method} / HTTP/1.1\r\nHost: web.localhost\r\n"
            raw = await g.send(f"{asked}\r\n{asked}Connection: close\r\n\r\n".encode())
            assert raw.count(b"HTTP/1.1 %d" % status) == 2
            assert raw.count(b'"e"') == 2
            assert raw.endswith(b"\r\n\r\n")

    run(story())


def test_head_tells_the_length_that_get_would_have() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"x" * 1234)

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(answer))
            raw = await g.send(
                b"HEAD / HTTP/1.1\r\nHost: web.localhost\r\nConnection: close\r\n\r\n"
            )
            assert b"Content-Length: 1234\r\n" in raw
            assert raw.endswith(b"\r\n\r\n")

    run(story())


def test_connections_to_a_replica_are_used_again() -> None:
    peers: Counter[object] = Counter()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        peers[request.transport.get_extra_info("peername")] += 1
        return web.Response(text="ok")

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(answer))
            await g.ready()
            for _ in range(10):
                await g.get()
            assert max(peers.values()) >= 5

    run(story())


def test_a_refused_connection_goes_to_another_replica_whatever_the_method() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            doomed, well = await g.replica(echo), await g.replica(echo)
            g.publish(doomed, well)
            await g.ready()
            g.end_replica(doomed)
            for _ in range(20):
                async with client.post(g.url(), data=b"once") as answer:
                    assert answer.status == 200

    run(story())


@pytest.mark.parametrize(("method", "asked", "status"), [("GET", 2, 200), ("POST", 1, 502)])
def test_a_lost_answer_is_asked_for_again_only_if_that_does_no_harm(
    method: str, asked: int, status: int
) -> None:
    requests: list[bytes] = []

    async def closing(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        requests.append(head)

    async def answering(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        requests.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def story() -> None:
        async with ground() as g, g.client() as client:
            bad, good = await g.raw_replica(closing), await g.raw_replica(answering)
            service = g.publish(bad, good)
            await g.ready()
            service.replicas[good.job].in_flight = 1  # so that the bad one is asked first
            async with client.request(method, g.url(), data=b"x") as answer:
                assert answer.status == status
                if status == 502:
                    assert answer.headers["X-Dstack-Gateway"] == "replica_closed"
            assert len(requests) == asked

    run(story())


def test_an_answer_that_is_no_http_is_a_502() -> None:
    async def nonsense(
        head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await writer.drain()

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.raw_replica(nonsense))
            status, body = await g.get()
            assert status == 502
            assert json.loads(body)["error"]["code"] == "bad_answer"

    run(story())


def test_requests_wait_for_the_first_replica() -> None:
    async def story() -> None:
        async with ground() as g:
            service = g.publish()
            waiting = asyncio.ensure_future(g.get())
            await until(lambda: service.report().held == 1)
            g.publish(await g.replica(echo))
            status, _ = await waiting
            assert status == 200
            await until(lambda: service.report().in_flight == 0)

    run(story())


def test_nobody_waits_for_a_service_that_is_stopped() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(holds=False, trouble="web is being stopped.")
            async with client.get(g.url()) as answer:
                assert answer.status == 503
                assert answer.headers["X-Dstack-Gateway"] == "no_replica"
                assert int(answer.headers["Retry-After"]) > 0
                assert "being stopped" in (await answer.json())["error"]["message"]

    run(story())


def test_a_replica_that_says_503_is_believed_and_its_answer_passed_on() -> None:
    async def busy(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=503, text="loading")

    async def story() -> None:
        async with ground() as g:
            service = g.publish(await g.replica(busy))
            assert await g.get() == (503, b"loading")
            assert service.report().errors == 1

    run(story())


def test_the_client_that_goes_away_ends_the_work_at_the_replica() -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            gone.set()
            raise
        return web.Response()

    async def story() -> None:
        async with ground() as g:
            service = g.publish(await g.replica(slow, handler_cancellation=True))
            _, writer = await g.open()
            writer.write(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
            await begun.wait()
            writer.close()
            await gone.wait()
            await until(lambda: service.report().in_flight == 0)
            assert next(iter(service.replicas.values())).in_flight == 0

    run(story())


def test_an_observer_sees_the_answer_without_its_framing() -> None:
    seen: list[object] = []

    class Watching:
        def head(self, status: int, headers: object) -> None:
            seen.append(status)

        def chunk(self, data: bytes) -> None:
            seen.append(data)

        def end(self, *, failed: bool) -> None:
            seen.append(failed)

    async def streaming(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"one")
        await answer.write(b"two")
        await answer.write_eof()
        return answer

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(streaming))

            async def models(request: web.BaseRequest, token: str | None) -> web.StreamResponse:
                body = await request.read()
                service = g.table.services["web"]
                return await proxy.forward(
                    request, service, "/inner", body=body, observer=Watching()
                )

            await g.start(Front(g.table, models=models))
            assert await g.get("/v1/x", run="gateway") == (200, b"onetwo")
            assert seen[0] == 200
            assert seen[-1] is False
            assert b"".join(piece for piece in seen if isinstance(piece, bytes)) == b"onetwo"

    run(story())


def test_an_adapter_asks_a_replica_and_reads_the_answer() -> None:
    async def story() -> None:
        async with ground() as g:
            service = g.publish(await g.replica(echo))
            visit = service.arrive()
            async with proxy.exchange(
                service, "POST", "/generate", [("X-One", "1")], b"{}", visit=visit
            ) as answer:
                body = b"".join([piece async for piece in answer.chunks()])
            visit.close()
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("application/json")
            seen = json.loads(body)
            assert (seen["target"], seen["body"]) == ("/generate", "{}")
            assert ["X-One", "1"] in seen["headers"]

    run(story())
