"""Who is let in, where requests go, and what the gateway answers itself."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from aiohttp import web

from dstack_engine.gateway import limits
from dstack_engine.gateway.app import Front
from dstack_engine.records.publication import PublishedService
from dstack_engine.spec.services import HeaderKey, RateLimit
from tests.gateway.front_ground import TOKEN, Ground, echo, ground, run

WRONG = "w" * len(TOKEN)


async def status_of(g: Ground, host: str, target: str = "/") -> tuple[int, str]:
    """Return the status and the code of the gateway's own answer to a GET."""
    raw = await g.send(
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    )
    head, _, body = raw.partition(b"\r\n\r\n")
    code = json.loads(body)["error"]["code"] if b"X-Dstack-Gateway" in head else ""
    return int(raw.split(b" ")[1]), code


@pytest.mark.parametrize("host", ["web.localhost", "WEB.LocalHost:4180", "web.localhost.:1"])
def test_a_service_is_found_by_its_name(host: str) -> None:
    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo))
            assert await status_of(g, host) == (200, "")

    run(story())


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "web.localhost@evil", ""]
)
def test_a_page_cannot_reach_the_gateway_by_a_name_of_its_own(host: str) -> None:
    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo))
            assert await status_of(g, host) == (421, "misdirected")
            assert await status_of(g, host, "/services/web/") == (421, "misdirected")

    run(story())


def test_a_target_in_absolute_form_names_the_same_host() -> None:
    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo))
            assert (await status_of(g, "web.localhost", "http://web.localhost/a"))[0] == 200
            assert (await status_of(g, "evil.example", "http://evil.example/a"))[0] == 421
            for host, other in (
                ("evil.example", "web.localhost"),
                ("web.localhost", "a.localhost"),
            ):
                found = await status_of(g, host, f"http://{other}/a")
                assert found == (400, "bad_target")

    run(story())


def test_what_is_not_there_is_a_404_that_says_so() -> None:
    async def story() -> None:
        async with ground() as g:
            assert await status_of(g, "none.localhost") == (404, "service_not_found")
            assert await status_of(g, "localhost", "/services/none/") == (404, "service_not_found")
            assert await status_of(g, "localhost", "/other") == (404, "not_found")

    run(story())


@pytest.mark.parametrize(
    "up", ["..", "%2e%2e", ".%2E", "x/../..", "..;a", "..%2f", "..\\x", "..%5cx"]
)
def test_no_path_leads_out_of_a_service(up: str) -> None:
    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo), run="web")
            g.publish(await g.replica(echo), run="other")
            target = f"/services/web/{up}/other/"
            assert await status_of(g, "localhost", target) == (400, "bad_path")

    run(story())


def test_the_token_is_needed_and_does_not_reach_the_replica() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            g.publish(await g.replica(echo), auth=True)
            async with client.get(g.url()) as answer:
                assert answer.status == 401
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                assert (await answer.json())["error"]["code"] == "invalid_api_key"
            for carrier in ("Authorization", "Authentication"):
                for value, status in ((f"Bearer {WRONG}", 401), (f"bearer {TOKEN}", 200)):
                    async with client.get(g.url(), headers={carrier: value}) as answer:
                        assert answer.status == status
                        assert TOKEN.encode() not in await answer.read()
            both = {"Authorization": "Basic abc", "Authentication": f"Bearer {TOKEN}"}
            async with client.get(g.url(), headers=both) as answer:
                assert b"Basic abc" in await answer.read()  # it is the service's own

    run(story())


def test_without_authorization_the_header_belongs_to_the_service() -> None:
    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo), auth=False)
            _, body = await g.get(headers={"Authorization": "Bearer the-services-own"})
            assert b"the-services-own" in body
            _, body = await g.get(headers={"Authorization": f"Bearer {TOKEN}"})
            assert TOKEN.encode() not in body

    run(story())


def test_wrong_tokens_are_no_load() -> None:
    async def story() -> None:
        async with ground() as g:
            service = g.publish(await g.replica(echo), auth=True)
            for _ in range(5):
                assert (await g.get(headers={"Authorization": f"Bearer {WRONG}"}))[0] == 401
            assert service.report().loads[0].arrivals == 0

    run(story())


def test_a_limit_lets_its_rate_and_its_burst_through() -> None:
    async def story() -> None:
        async with ground() as g, g.client() as client:
            limit = RateLimit(prefix="/api", rps=1, burst=2)
            g.publish(await g.replica(echo), rate_limits=(limit,))
            found = [(await g.get("/api/x"))[0] for _ in range(5)]
            assert found == [200, 200, 200, 429, 429]
            async with client.get(g.url("/api%2Fx")) as answer:
                assert answer.status == 429  # nor in another spelling
                assert answer.headers["X-Dstack-Gateway"] == "rate_limited"
                assert answer.headers["Retry-After"] == "1"
            assert (await g.get("/other"))[0] == 200

    run(story())


def test_a_limit_tells_clients_apart_by_a_header() -> None:
    async def story() -> None:
        async with ground() as g:
            key = HeaderKey(type="header", header="X-User")
            g.publish(await g.replica(echo), rate_limits=(RateLimit(rps=1 / 60, key=key),))
            for user in ("a", "b", ""):
                assert (await g.get(headers={"X-User": user}))[0] == 200
                assert (await g.get(headers={"X-User": user}))[0] == 429
            assert (await g.get())[0] == 429  # without the header: as with an empty one

    run(story())


def test_the_longest_prefix_counts_and_an_unchanged_limit_goes_on() -> None:
    clock = [0.0]
    limiter = limits.RateLimiter(lambda: clock[0])
    told = PublishedService(
        "web",
        "id",
        rate_limits=(RateLimit(prefix="/", rps=1), RateLimit(prefix="/free", rps=100, burst=99)),
    )
    assert limiter.wait(told, "/x", "a", {}) == 0
    assert limiter.wait(told, "/x", "a", {}) == pytest.approx(1)
    assert limiter.wait(told, "/x", "b", {}) == 0
    assert all(limiter.wait(told, "/free/x", "a", {}) == 0 for _ in range(100))
    again = replace(told, holds=False)
    clock[0] = 0.5
    assert limiter.wait(again, "/x", "a", {}) == pytest.approx(0.5)
    clock[0] = 1.0
    assert limiter.wait(again, "/x", "a", {}) == 0


def test_a_connection_that_says_nothing_or_little_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "FIRST_REQUEST_TIME", 0.1)

    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo))
            for begun in (b"", b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX-Slow: "):
                assert await g.send(begun) == b""

    run(story())


def test_a_hundred_slow_clients_hold_up_nobody() -> None:
    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo))
            slow = [await g.open() for _ in range(100)]
            for _, writer in slow:
                writer.write(
                    b"POST / HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 9\r\n\r\n1"
                )
            assert (await g.get())[0] == 200
            for _, writer in slow:
                writer.close()

    run(story())


def test_a_client_that_waits_for_100_continue_is_told_to_send_its_question_to_a_model() -> None:
    async def models(request: web.BaseRequest, token: str | None) -> web.StreamResponse:
        return web.Response(body=await request.read())

    async def story() -> None:
        async with ground() as g:
            await g.start(Front(g.table, models=models))
            reader, writer = await g.open()
            writer.write(
                b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
            )
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"body")
            assert (await reader.readuntil(b"body")).startswith(b"HTTP/1.1 200 OK")
            writer.close()

    run(story())


def test_requests_may_be_sent_one_after_the_other_without_waiting() -> None:
    async def story() -> None:
        async with ground() as g:
            g.publish(await g.replica(echo))
            asked = b"".join(
                b"GET /%d HTTP/1.1\r\nHost: web.localhost\r\n\r\n" % number for number in range(20)
            )
            last = b"GET /20 HTTP/1.1\r\nHost: web.localhost\r\nConnection: close\r\n\r\n"
            raw = await g.send(asked + last)
            at = [raw.index(b'"target": "/%d"' % number) for number in range(21)]
            assert at == sorted(at)

    run(story())


def test_the_gateways_own_bug_is_a_500_that_tells_nothing() -> None:
    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        raise RuntimeError("a secret")

    async def story() -> None:
        async with ground() as g:
            await g.start(Front(g.table, metrics=broken))
            raw = await asyncio.wait_for(
                g.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"), 5
            )
            assert raw.startswith(b"HTTP/1.1 500")
            assert b"gateway_error" in raw
            assert b"secret" not in raw

    run(story())
