"""Heads of messages: what passes, what does not, and what is refused because it is ambiguous."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_engine.gateway.chunks import BadBody, ChunkScanner, as_chunk
from dstack_engine.gateway.headers import (
    BadHead,
    answer_head,
    moved_under,
    request_head,
)
from tests.gateway.front_ground import ground, run

OK = "\r\nHost: web.localhost\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: web.localhost\r\n\r\n"

REFUSED = {
    "length and chunks": f"POST / HTTP/1.1{OK}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "chunks and length": f"POST / HTTP/1.1{OK}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "two lengths": f"POST / HTTP/1.1{OK}Content-Length: 4\r\nContent-Length: 5\r\n",
    "the same length twice": f"POST / HTTP/1.1{OK}Content-Length: 4\r\nContent-Length: 4\r\n",
    "a list of lengths": f"POST / HTTP/1.1{OK}Content-Length: 4, 4\r\n",
    "a signed length": f"POST / HTTP/1.1{OK}Content-Length: +4\r\n",
    "a length in hex": f"POST / HTTP/1.1{OK}Content-Length: 0x4\r\n",
    "a negative length": f"POST / HTTP/1.1{OK}Content-Length: -1\r\n",
    "an unknown coding": f"POST / HTTP/1.1{OK}Transfer-Encoding: xchunked\r\n",
    "chunked before identity": f"POST / HTTP/1.1{OK}Transfer-Encoding: chunked, identity\r\n",
    "gzip before chunked": f"POST / HTTP/1.1{OK}Transfer-Encoding: gzip, chunked\r\n",
    "chunked twice": f"POST / HTTP/1.1{OK}Transfer-Encoding: chunked\r\n"
    "Transfer-Encoding: chunked\r\n",
    "chunked with a tab": f"POST / HTTP/1.1{OK}Transfer-Encoding:\x0bchunked\r\n",
    "chunks in HTTP/1.0": "POST / HTTP/1.0\r\nHost: web.localhost\r\n"
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "space before the colon": f"POST / HTTP/1.1{OK}Content-Length : 4\r\n",
    "a folded header": f"GET / HTTP/1.1{OK}X-A: b\r\n c\r\n",
    "a folded coding": f"POST / HTTP/1.1{OK}Transfer-Encoding:\r\n chunked\r\n",
    "a null": f"GET / HTTP/1.1{OK}X-A: b\x00c\r\n",
    "a bare carriage return": f"GET / HTTP/1.1{OK}X-A: b\rX-B: c\r\n",
    "a bare newline": f"GET / HTTP/1.1{OK}X-A: b\nX-B: c\r\n",
    "a name with a space": f"GET / HTTP/1.1{OK}X A: b\r\n",
    "a name with a bracket": f"GET / HTTP/1.1{OK}X[A]: b\r\n",
    "no name": f"GET / HTTP/1.1{OK}: b\r\n",
    "two hosts": f"GET / HTTP/1.1{OK}Host: other.localhost\r\n",
    "no host": "GET / HTTP/1.1\r\n",
    "another version": f"GET / HTTP/3.7{OK}",
    "no version": "GET /\r\nHost: web.localhost\r\n",
    "a space in the path": f"GET /a b HTTP/1.1{OK}",
    "an unknown method": f"GE\x01T / HTTP/1.1{OK}",
}


@pytest.mark.parametrize("head", REFUSED.values(), ids=REFUSED.keys())
def test_what_two_servers_could_read_differently_is_refused(head: str) -> None:
    seen: list[str] = []

    async def story() -> None:
        async with ground() as g:

            async def handler(request: object) -> object:
                seen.append(request.raw_path)  # type: ignore[attr-defined]
                raise AssertionError("a replica was asked")

            g.publish(await g.replica(handler))  # type: ignore[arg-type]
            raw = await g.send(head.encode("latin-1") + b"\r\n0\r\n\r\n" + HIDDEN)
            assert raw.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
            assert raw.count(b"HTTP/1.") == 1  # and the connection is closed after it
            assert b"X-Dstack-Gateway: bad_request\r\n" in raw
            assert not seen

    run(story())


@pytest.mark.parametrize(
    "body",
    [b"zz\r\n", b"-1\r\n", b"+3\r\nabc\r\n", b"0x3\r\nabc\r\n", b"3\r\nabcd\r\n", b"3\nabc\n0\n\n"],
)
def test_wrong_chunks_reach_no_second_request(body: bytes) -> None:
    seen: list[str] = []

    async def story() -> None:
        async with ground() as g:

            async def handler(request: object) -> object:
                seen.append(request.raw_path)  # type: ignore[attr-defined]
                await request.read()  # type: ignore[attr-defined]
                raise AssertionError("the body was whole")

            g.publish(await g.replica(handler))  # type: ignore[arg-type]
            head = b"POST / HTTP/1.1\r\nHost: web.localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            raw = await g.send(head + body + b"0\r\n\r\n" + HIDDEN)
            assert b"HTTP/1.1 200" not in raw
            assert "/hidden" not in seen

    run(story())


def test_a_head_is_bounded_in_its_lines_its_headers_and_their_number() -> None:
    async def story() -> None:
        async with ground() as g:
            for head in (
                b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: web.localhost\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: web.localhost\r\nX-A: " + b"a" * 40_000 + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: web.localhost\r\n" + b"X-A: b\r\n" * 500 + b"\r\n",
            ):
                raw = await g.send(head)
                assert raw.startswith((b"HTTP/1.1 431", b"HTTP/1.0 431"))
                assert b"head_too_large" in raw

    run(story())


def lines_of(*raw: tuple[bytes, bytes], **options: object) -> bytes:
    """Return what goes on of some headers."""
    return request_head("GET", raw, remote="1.2.3.4", **options).lines  # type: ignore[arg-type]


def test_hop_by_hop_headers_and_those_that_connection_names_end_here() -> None:
    lines = lines_of(
        (b"Host", b"web.localhost"),
        (b"Connection", b"close, X-Private"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"TE", b"trailers"),
        (b"Upgrade", b"h2c"),
        (b"X-Private", b"1"),
        (b"X-Public", b"2"),
    )
    assert lines.startswith(b"X-Public: 2\r\nX-Forwarded-For: 1.2.3.4\r\n")


def test_what_the_client_says_about_itself_is_not_believed() -> None:
    lines = lines_of(
        (b"Host", b"web.localhost"),
        (b"X-Forwarded-For", b"9.9.9.9"),
        (b"X_Forwarded_For", b"8.8.8.8"),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Forwarded-Prefix", b"/admin"),
        (b"Forwarded", b"for=9.9.9.9"),
        (b"X-Real-IP", b"9.9.9.9"),
        (b"Content_Length", b"7"),
    )
    assert lines == (
        b"X-Forwarded-For: 9.9.9.9, 1.2.3.4\r\n"  # appended, so that the last one is ours
        b"X-Forwarded-Proto: http\r\n"
        b"X-Forwarded-Host: web.localhost\r\n"
    )


def test_our_token_does_not_reach_a_replica_and_others_do() -> None:
    raw = ((b"Authorization", b"Bearer ours"), (b"Authentication", b"Bearer theirs"))
    lines = lines_of(*raw, secret=(b"authorization",))
    assert b"ours" not in lines
    assert b"Authentication: Bearer theirs\r\n" in lines
    assert b"Bearer ours" in lines_of(*raw)


def test_an_answer_with_a_coding_and_a_length_is_read_by_the_coding_and_used_no_more() -> None:
    head = answer_head(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", bodiless=False
    )
    assert (head.chunked, head.length, head.keep_alive) == (True, None, False)


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        (b"Location: /a", b"Location: /services/w/a"),
        (b"Location: /services/w/a", b"Location: /services/w/a"),
        (b"Location: a", b"Location: a"),
        (b"Location: //elsewhere/a", b"Location: //elsewhere/a"),
        (b"Location: https://elsewhere/", b"Location: https://elsewhere/"),
        (b"Location: http://127.0.0.1:80/a", b"Location: http://127.0.0.1:80/services/w/a"),
        (b"Set-Cookie: a=1", b"Set-Cookie: a=1; Path=/services/w/"),
        (b"Set-Cookie: a=1;path=/x;Secure", b"Set-Cookie: a=1; Path=/services/w/x;Secure"),
    ],
)
def test_addresses_are_moved_below_the_prefix(line: bytes, moved: bytes) -> None:
    assert moved_under("/services/w", line, b"127.0.0.1:80") == moved


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.data())
def test_chunks_are_found_wherever_they_are_torn(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(map(as_chunk, pieces)) + b"0;last\r\nX-Sum: 1\r\n\r\n"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=8)))
    scanner, got, taken = ChunkScanner(), b"", 0
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        assert not scanner.done or begin == end
        count, found = scanner.feed(whole[begin:end], keep=True)
        taken += count
        got += b"".join(found)
    assert (scanner.done, got, taken) == (True, b"".join(pieces), len(whole))
    assert scanner.feed(b"more", keep=True) == (0, [])


@given(st.binary(max_size=200))
def test_no_bytes_break_the_readers(data: bytes) -> None:
    with suppress(BadBody):
        ChunkScanner().feed(data, keep=False)
    with suppress(BadHead):
        answer_head(data, bodiless=False)
