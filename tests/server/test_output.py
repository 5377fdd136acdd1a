"""A run's output as a page reads it: lines of JSON, as they come and no faster than it reads."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from tornado.httpclient import HTTPClientError

from dstack_engine.client import Client
from dstack_jupyter.server.output import AHEAD, Reader
from tests.server.conftest import Visit
from tests.server.runs import ended, start


def pieces_in(body: bytes) -> list[dict[str, Any]]:
    """Return the pieces of an answer; empty lines are signs of life."""
    return [json.loads(line) for line in body.splitlines() if line]


async def test_output_is_read_whole_and_on_from_any_place(
    jp_fetch: Callable[..., Any], client: Client
) -> None:
    start(client, "box", "for i in $(seq 1 2000); do echo line-$i-ü; done; echo bad >&2")
    ended(client, "box")
    answer = await jp_fetch("dstack-jupyter", "runs", "box", "logs")
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    pieces = pieces_in(answer.body)
    text = "".join(piece["text"] for piece in pieces)
    assert text.count("\n") == 2001
    assert "line-1-ü\n" in text
    assert "".join(p["text"] for p in pieces if p.get("stream") == "stderr") == "bad\n"
    assert {piece["job"] for piece in pieces} == {"box-0-0/1"}
    assert pieces[0]["start"] == 0
    query = {"offset": str(pieces[0]["offset"])}
    rest = pieces_in((await jp_fetch("dstack-jupyter", "runs", "box", "logs", params=query)).body)
    assert "".join(piece["text"] for piece in rest) == text[len(pieces[0]["text"]) :]
    tail = pieces_in(
        (await jp_fetch("dstack-jupyter", "runs", "box", "logs", params={"tail": "100"})).body
    )
    assert tail[0]["start"] > 0
    assert text.endswith("".join(piece["text"] for piece in tail))


async def test_a_followed_run_is_told_as_it_prints_until_it_ends(
    jp_fetch: Callable[..., Any], client: Client, tmp_path: Any
) -> None:
    go = tmp_path / "go"
    start(client, "box", f"echo one; until test -e {go}; do sleep 0.05; done; echo two")
    heard: list[bytes] = []
    began = asyncio.Event()

    def hear(chunk: bytes) -> None:
        heard.append(chunk)
        if b"one" in chunk:
            began.set()

    following = jp_fetch(
        "dstack-jupyter",
        "runs",
        "box",
        "logs",
        params={"follow": "true"},
        streaming_callback=hear,
        request_timeout=60,
    )
    await began.wait()
    assert b"two" not in b"".join(heard)
    go.touch()
    await following
    assert "".join(p["text"] for p in pieces_in(b"".join(heard))) == "one\ntwo\n"


def readers() -> list[threading.Thread]:
    """Return the threads that read output for pages."""
    return [one for one in threading.enumerate() if one.name == "dstack-output"]


async def test_a_page_that_goes_leaves_no_reader_behind(visit: Visit, client: Client) -> None:
    start(client, "box", "echo one; sleep 300")
    peer = await visit("GET", "runs/box/logs?follow=true")
    await peer.until(b'"one\\n"')
    (reader,) = readers()
    await peer.close()
    await asyncio.get_running_loop().run_in_executor(None, reader.join, 60)
    assert not reader.is_alive()


async def test_a_page_that_does_not_read_holds_the_engine_s_answer_back(
    visit: Visit, client: Client
) -> None:
    start(client, "box", "head -c 60000000 /dev/zero | tr '\\0' 'x' | fold -w 1000")
    peer = await visit("GET", "runs/box/logs?follow=true", limit=1 << 16)
    await peer.until(b"xxxx")
    await asyncio.get_running_loop().run_in_executor(None, ended, client, "box")
    (thread,) = readers()
    handlers = [one for one in _living_readers() if one._ahead]
    assert handlers
    assert all(one._ahead <= AHEAD + (1 << 20) for one in handlers)
    assert thread.is_alive()
    await peer.close()
    await asyncio.get_running_loop().run_in_executor(None, thread.join, 60)


def _living_readers() -> list[Any]:
    return [one for one in gc.get_objects() if isinstance(one, Reader)]


async def test_an_engine_that_goes_breaks_the_answer_off(
    jp_fetch: Callable[..., Any], client: Client
) -> None:
    start(client, "box", "echo one; sleep 300")
    began = asyncio.Event()
    following = asyncio.ensure_future(
        jp_fetch(
            "dstack-jupyter",
            "runs",
            "box",
            "logs",
            params={"follow": "true"},
            streaming_callback=lambda chunk: began.set() if b"one" in chunk else None,
            request_timeout=60,
        )
    )
    await began.wait()
    os.kill(client.engine().pid, signal.SIGKILL)
    try:
        await following
    except (HTTPClientError, OSError) as error:
        assert error  # noqa: PT017  # whichever of them tornado's client makes of a broken answer
    else:
        raise AssertionError("the answer ended as if it were whole")
