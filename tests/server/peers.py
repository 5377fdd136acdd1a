"""A client of bare bytes, for what no well-behaved client does: it stops reading, or goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

#: Seconds; far more than anything takes, for a machine that others keep busy.
PATIENCE = 60.0


@dataclass
class Peer:
    """One connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytes = b""

    @classmethod
    async def connect(cls, port: int, *, limit: int = 1 << 20) -> Peer:
        """Return a new connection, which reads no more than *limit* ahead."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=limit))

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> None:
        """Send a request's head, and what there is of a body."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def until(self, mark: bytes) -> bytes:
        """Read on until *mark* has come; return all that came."""
        while mark not in self.received:
            try:
                chunk = await asyncio.wait_for(self.reader.read(1 << 16), PATIENCE)
            except asyncio.TimeoutError:
                chunk = b""
            assert chunk, f"{mark!r} did not come, but {self.received[-500:]!r}"
            self.received += chunk
        return self.received

    async def end(self) -> bytes:
        """Read on to the end of the connection; return all that came."""
        while chunk := await asyncio.wait_for(self.reader.read(1 << 16), PATIENCE):
            self.received += chunk
        return self.received

    async def close(self) -> None:
        """Go."""
        self.writer.close()
        await self.writer.wait_closed()
