"""The bare tool that the gateway is measured against: aiohttp and uvloop, and nothing besides.

`python -m benchmarks.bare_proxy PORT UPSTREAM`: no names, no token, no counting, no holding.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import aiohttp
import uvloop
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "te", "transfer-encoding", "upgrade", "content-length"}


async def serve(port: int, upstream: int) -> None:
    """Pass everything on to *upstream* until ended."""
    base = f"http://127.0.0.1:{upstream}"
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    session = aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=timeout)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        headers = {n: v for n, v in request.headers.items() if n.lower() not in HOP_BY_HOP}
        data = await request.read() if request.can_read_body else None
        async with session.request(
            request.method, base + request.raw_path, headers=headers, data=data
        ) as theirs:
            kept = {n: v for n, v in theirs.headers.items() if n.lower() not in HOP_BY_HOP}
            answer = web.StreamResponse(status=theirs.status, headers=kept)
            answer.content_length = theirs.content_length
            await answer.prepare(request)
            with suppress(ConnectionError):  # the client has gone
                async for piece in theirs.content.iter_any():
                    await answer.write(piece)
                await answer.write_eof()
            return answer

    server = web.Server(handle, access_log=None, handler_cancellation=True)
    await asyncio.get_running_loop().create_server(server, "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
