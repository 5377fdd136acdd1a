"""A run's port through Jupyter's proxy, with a real program behind it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.websocket import websocket_connect

from dstack_engine.client import Client
from dstack_engine.home import Home
from tests.server.conftest import Visit
from tests.server.runs import start

PROGRAM = Path(__file__).with_name("program.py")

#: Asks the program for a path; what `jp_fetch` takes, and `headers`.
Reach = Callable[..., Awaitable[Any]]


def a_free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def port(client: Client) -> int:
    """The port of a program that runs as the task `app`; it may not listen yet."""
    port = a_free_port()
    start(client, "app", f"exec {sys.executable} {PROGRAM} {port}", ports=[str(port)])
    return port


@pytest.fixture
def reach(jp_fetch: Callable[..., Any], port: int) -> Reach:
    """Asks the program through Jupyter, and waits until it listens."""
    listening = False

    async def reached(path: str, **options: Any) -> Any:
        nonlocal listening
        while not listening:
            try:
                await jp_fetch("dstack-jupyter", "ports", "app", str(port), "ready")
                listening = True
            except HTTPClientError as error:
                listening = error.code not in (404, 409, 502)  # not placed, not running yet
                await asyncio.sleep(0.05)
        parts = path.split("/")
        return await jp_fetch("dstack-jupyter", "ports", "app", str(port), *parts, **options)

    return reached


async def refused(asked: Any) -> tuple[int, dict[str, Any]]:
    """Return the status and the words of a refusal."""
    with pytest.raises(HTTPClientError) as error:
        await asked
    assert error.value.response is not None
    return error.value.code, json.loads(error.value.response.body)


async def test_the_program_is_asked_as_the_browser_asked(
    reach: Reach, jp_fetch: Callable[..., Any], port: int
) -> None:
    login = await log_in(jp_fetch)
    answer = await reach(
        "deep/%2Fpath",
        method="POST",
        body="a body",
        params={"q": "ü", "token": "its-own"},
        headers={**login, "Accept-Language": "de", "Authorization": "Basic bWU6bWU="},
    )
    said = json.loads(answer.body)
    headers = {name.lower(): value for name, value in said["headers"]}
    assert (said["method"], said["body"]) == ("POST", "a body")
    assert said["uri"].startswith("/deep/")
    assert "q=%C3%BC" in said["uri"]
    assert "token=its-own" in said["uri"]
    assert headers["accept-language"] == "de"
    assert headers["authorization"] == "Basic bWU6bWU="  # the program's own
    assert headers["x-forwarded-prefix"].endswith(f"/dstack-jupyter/ports/app/{port}")
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-host"] == headers["host"]
    assert headers["x-forwarded-proto"] == "http"
    assert answer.headers.get_list("Server")[0].startswith("TornadoServer")
    assert "Content-Security-Policy" in answer.headers


async def test_nothing_of_jupyter_s_login_reaches_the_program(
    reach: Reach, jp_serverapp: Any, jp_auth_header: dict[str, str]
) -> None:
    token = jp_serverapp.identity_provider.token
    cookies = "_xsrf=2|word; username-localhost-8888=me; jupyterhub-session-id=s; mine=1; my=2"
    answer = await reach(
        "echo",
        params={"token": token, "q": "1"},
        headers={
            **jp_auth_header,
            "Cookie": cookies,
            "X-XSRFToken": "2|word",
            "Referer": f"http://localhost/lab?token={token}",
        },
    )
    assert token not in answer.body.decode()
    said = json.loads(answer.body)
    headers = {name.lower(): value for name, value in said["headers"]}
    assert said["uri"] == "/echo?q=1"
    assert headers["cookie"] == "mine=1; my=2"
    assert "authorization" not in headers
    assert "x-xsrftoken" not in headers
    for word in ("word", "username", "jupyterhub"):
        assert word not in answer.body.decode()


async def test_every_method_and_status_passes(reach: Reach) -> None:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await reach("echo", method=method, allow_nonstandard_methods=True, body="x")
        assert json.loads(answer.body)["method"] == method
    head = await reach("download/3", method="HEAD")
    assert (head.body, head.headers["Content-Length"]) == (b"", str(3 << 20))
    assert (await reach("status/204")).body == b""
    for status in ("304", "404", "418", "500"):
        with pytest.raises(HTTPClientError) as error:
            await reach(f"status/{status}")
        assert error.value.code == int(status)


async def test_the_place_without_its_slash_leads_to_it(
    jp_fetch: Callable[..., Any], reach: Reach, port: int
) -> None:
    await reach("ready")
    place = ("dstack-jupyter", "ports", "app", str(port))
    with pytest.raises(HTTPClientError) as error:
        await jp_fetch(*place, params={"q": "1"}, follow_redirects=False)
    assert error.value.response is not None
    assert error.value.response.headers["Location"].endswith(f"/ports/app/{port}/?q=1")
    assert json.loads((await jp_fetch(*place, "/", params={"q": "1"})).body)["uri"] == "/?q=1"


async def test_redirects_and_cookies_stay_below_the_place(
    reach: Reach, jp_base_url: str, port: int
) -> None:
    prefix = f"{jp_base_url}dstack-jupyter/ports/app/{port}"
    for to, where in (
        ("/login?next=%2F", f"{prefix}/login?next=%2F"),
        ("relative", "relative"),
        (f"http://localhost:{port}/login", f"{prefix}/login"),
        (f"http://127.0.0.1:{port}", f"{prefix}/"),
        (f"{prefix}/there", f"{prefix}/there"),
        ("https://elsewhere.example/x", "https://elsewhere.example/x"),
        ("//elsewhere.example/x", "//elsewhere.example/x"),
    ):
        with pytest.raises(HTTPClientError) as error:
            await reach("redirect", params={"to": to}, follow_redirects=False)
        assert error.value.response is not None
        assert error.value.response.headers["Location"] == where, to
    answer = await reach("cookies")
    ours = [one for one in answer.headers.get_list("Set-Cookie") if "username-" not in one]
    assert sorted(ours) == [f"deep=2; Path={prefix}/app", f"mine=1; Path={prefix}/; HttpOnly"]


async def test_events_pass_one_by_one(reach: Reach) -> None:
    heard: list[bytes] = []
    first = asyncio.Event()

    def hear(chunk: bytes) -> None:
        heard.append(chunk)
        first.set()

    await reach("ready")
    following = asyncio.ensure_future(reach("events", streaming_callback=hear, request_timeout=60))
    await first.wait()
    assert heard == [b"data: one\n\n"]
    await reach("events", method="POST", body="")
    await following
    assert b"".join(heard) == b"data: one\n\ndata: two\n\n"


async def test_much_goes_up_and_much_comes_down(reach: Reach, visit: Visit, port: int) -> None:
    chunk = bytes(range(256)) * 4096
    count = 200  # more than Jupyter would keep

    async def send(write: Callable[[bytes], Awaitable[None]]) -> None:
        for _ in range(count):
            await write(chunk)

    answer = await reach("upload", method="POST", body_producer=send, request_timeout=120)
    said = json.loads(answer.body)
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(chunk)
    assert said == {"size": count * len(chunk), "sha256": digest.hexdigest()}

    sizes: list[int] = []
    await reach(
        "download/90", streaming_callback=lambda part: sizes.append(len(part)), request_timeout=120
    )
    assert sum(sizes) == 90 << 20


async def test_an_answer_may_come_before_the_body_is_sent(
    reach: Reach, visit: Visit, port: int
) -> None:
    await reach("ready")
    length = {"Content-Length": str(1 << 30)}
    peer = await visit("POST", f"ports/app/{port}/impatient", length, b"the beginning")
    answer = await peer.until(b"too much")
    assert answer.startswith(b"HTTP/1.1 413")
    await peer.close()


async def test_who_goes_is_told_to_the_program(reach: Reach, visit: Visit, port: int) -> None:
    await reach("ready")
    peer = await visit("GET", f"ports/app/{port}/silent")
    await asyncio.sleep(0.2)
    await peer.close()
    assert json.loads((await reach("gone")).body) == ["silent"]


async def test_a_program_that_breaks_off_is_not_taken_for_whole(
    reach: Reach, visit: Visit, port: int
) -> None:
    await reach("ready")
    peer = await visit("GET", f"ports/app/{port}/broken/middle")
    assert (await peer.end()).endswith(b"half")  # though 1000 bytes were announced
    for how in ("at once", "head", "nonsense"):
        status, words = await refused(reach(f"broken/{how.split()[0]}"))
        assert (status, words["code"]) == (502, "unreached"), how


@pytest.fixture
def connect(
    http_server: Any,
    jp_http_port: int,
    jp_base_url: str,
    jp_auth_header: dict[str, str],
    port: int,
    reach: Reach,
) -> Callable[..., Any]:
    """Opens the program's WebSocket through Jupyter."""

    async def connected(
        headers: Mapping[str, str] = MappingProxyType({}), subprotocols: list[str] | None = None
    ) -> Any:
        await reach("ready")
        url = f"ws://localhost:{jp_http_port}{jp_base_url}dstack-jupyter/ports/app/{port}/socket"
        request = HTTPRequest(url, headers=HTTPHeaders({**jp_auth_header, **headers}))
        return await websocket_connect(request, subprotocols=subprotocols, max_message_size=1 << 26)

    return connected


async def test_a_websocket_says_texts_and_bytes_again(connect: Callable[..., Any]) -> None:
    socket = await connect(subprotocols=["other", "chat"])
    assert socket.selected_subprotocol == "chat"
    for message in ("text ü", b"\x00\xff", "x" * 5_000_000, b"y" * 5_000_000, ""):
        await socket.write_message(message, binary=isinstance(message, bytes))
        assert await socket.read_message() == message
    await socket.write_message("bye")
    assert await socket.read_message() is None
    assert (socket.close_code, socket.close_reason) == (4321, "so long")


async def test_a_websocket_that_closes_is_told_to_the_program(
    connect: Callable[..., Any], reach: Reach
) -> None:
    socket = await connect()
    socket.close(4000, "enough")
    assert json.loads((await reach("gone")).body) == ["socket 4000"]


FOREIGN = [
    {"Origin": "http://elsewhere.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


async def log_in(jp_fetch: Callable[..., Any]) -> dict[str, str]:
    """Return what a browser that has logged in sends, whichever site asks it to."""
    answer = await jp_fetch("dstack-jupyter", "version")
    cookies = [cookie.split(";")[0] for cookie in answer.headers.get_list("Set-Cookie")]
    login = next(cookie for cookie in cookies if cookie.startswith("username-"))
    return {"Authorization": "none", "Cookie": login}


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda one: " ".join(*one.items()))
async def test_another_site_s_page_changes_nothing(
    reach: Reach,
    connect: Callable[..., Any],
    jp_fetch: Callable[..., Any],
    jp_http_port: int,
    foreign: dict[str, str],
) -> None:
    login = await log_in(jp_fetch)
    own = {"Origin": f"http://127.0.0.1:{jp_http_port}", "Sec-Fetch-Site": "same-origin"}
    posted = await reach("echo", method="POST", body="", headers={**login, **own})
    assert json.loads(posted.body)["method"] == "POST"
    asked = reach("echo", method="POST", body="", headers={**login, **foreign})
    assert (await refused(asked))[0] == 403
    with pytest.raises(HTTPClientError) as error:
        await connect(headers={**login, **foreign})
    assert error.value.code == 403


async def test_nobody_reaches_a_port_without_a_login(
    jp_fetch: Callable[..., Any], reach: Reach, visit: Visit, port: int
) -> None:
    await reach("ready")
    nobody = {"Authorization": "token wrong"}
    for method in ("GET", "POST", "OPTIONS"):
        with pytest.raises(HTTPClientError) as error:
            await reach("echo", method=method, headers=nobody, allow_nonstandard_methods=True)
        assert error.value.code == 403
    opened = reach("echo", headers={**nobody, "Accept": "text/html"}, follow_redirects=False)
    with pytest.raises(HTTPClientError) as error:
        await opened
    assert error.value.response is not None
    assert "/login?next=" in error.value.response.headers["Location"]
    peer = await visit(
        "POST", f"ports/app/{port}/upload", {**nobody, "Content-Length": "99999999999"}
    )
    assert (await peer.until(b"\r\n\r\n")).startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))
    await peer.close()


async def test_only_ports_of_living_runs_are_reached(
    jp_fetch: Callable[..., Any], client: Client, reach: Reach, port: int
) -> None:
    await reach("ready")
    other = a_free_port()
    engine = Home.of_user().engine_file.read_text()
    for path, status, code in (
        (f"ports/nobody/{port}/x", 404, "not-found"),
        (f"ports/app/{other}/x", 404, "not-found"),
        (f"ports/app/{json.loads(engine)['port']}/x", 404, "not-found"),
        ("ports/app/0/x", 404, "not-found"),
        ("ports/app/999999/x", 404, "no-route"),
        ("ports/app/x/x", 404, "no-route"),
        ("services/nobody/x", 422, "refused"),
        ("models/v1/models", 422, "refused"),
        ("models/v2/models", 404, "no-route"),
    ):
        asked = jp_fetch("dstack-jupyter", *path.split("/"), follow_redirects=False)
        answered, words = await refused(asked)
        assert answered == status, path
        assert words["code"] == code, path
    client.stop("app", abort=True)
    for _ in client.logs("app", follow=True):
        pass
    status, words = await refused(reach("echo"))
    assert (status, words["code"]) == (409, "conflict")
    page = jp_fetch(
        "dstack-jupyter", "ports", "app", str(port), "x", headers={"Accept": "text/html"}
    )
    with pytest.raises(HTTPClientError) as error:
        await page
    assert error.value.response is not None
    assert b"<h1>Run &#x27;app&#x27; does not run" in error.value.response.body or (
        b"<h1>Run &#39;app&#39; does not run" in error.value.response.body
    )


async def test_hostile_heads_are_refused(reach: Reach, visit: Visit, port: int) -> None:
    await reach("ready")
    for headers, body in (
        ({"Transfer-Encoding": "gzip"}, b""),
        ({"Transfer-Encoding": "chunked", "Content-Length": "3"}, b"0\r\n\r\n"),
        ({"Content-Length": "1, 2"}, b""),
    ):
        said = {**headers, "Connection": "close"}
        peer = await visit("POST", f"ports/app/{port}/echo", said, body)
        assert not (await peer.end()).startswith(b"HTTP/1.1 200"), headers
