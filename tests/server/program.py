"""A program with everything that a proxy may get wrong; a run starts it: `program.py PORT`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import Any

from tornado import web, websocket

GO = asyncio.Event()
GONE: list[str] = []


class Echo(web.RequestHandler):
    """Says what it was asked."""

    async def get(self) -> None:
        said = {
            "method": self.request.method,
            "uri": self.request.uri,
            "headers": list(self.request.headers.get_all()),
            "body": self.request.body.decode("latin-1"),
        }
        self.finish(json.dumps(said))

    post = put = patch = delete = options = get

    def compute_etag(self) -> None:
        return None


class Events(web.RequestHandler):
    """Sends one event, and the next once it is told to go on."""

    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.write("data: one\n\n")
        await self.flush()
        await GO.wait()
        self.finish("data: two\n\n")

    async def post(self) -> None:
        GO.set()


@web.stream_request_body
class Upload(web.RequestHandler):
    """Takes a body of any size, and says what it was."""

    def prepare(self) -> None:
        self.request.connection.set_max_body_size(1 << 40)  # type: ignore[union-attr]
        self.digest, self.size = hashlib.sha256(), 0

    def data_received(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.size += len(chunk)

    async def post(self) -> None:
        self.finish({"size": self.size, "sha256": self.digest.hexdigest()})


@web.stream_request_body
class Impatient(web.RequestHandler):
    """Answers before the body has come."""

    def prepare(self) -> None:
        self.set_status(413)
        self.finish("too much")

    def data_received(self, chunk: bytes) -> None:
        """Want none of it."""

    async def post(self) -> None:
        """Have answered already."""


class Download(web.RequestHandler):
    """Sends so many MB."""

    async def get(self, megabytes: str) -> None:
        for _ in range(int(megabytes)):
            self.write(b"x" * (1 << 20))
            await self.flush()

    async def head(self, megabytes: str) -> None:
        self.set_header("Content-Length", str(int(megabytes) << 20))


class Redirect(web.RequestHandler):
    """Sends the browser elsewhere."""

    async def get(self) -> None:
        self.set_status(302)
        self.set_header("Location", self.get_query_argument("to"))


class Cookies(web.RequestHandler):
    """Sets cookies of its own, and some it should not."""

    async def get(self) -> None:
        self.add_header("Set-Cookie", "mine=1; Path=/; HttpOnly")
        self.add_header("Set-Cookie", "deep=2; Path=/app")
        self.add_header("Set-Cookie", "_xsrf=stolen; Path=/")
        self.add_header("Set-Cookie", "username-localhost-8888=me")
        self.finish("set")


class Silent(web.RequestHandler):
    """Never answers; remembers who went."""

    async def get(self) -> None:
        await asyncio.Event().wait()

    def on_connection_close(self) -> None:
        GONE.append("silent")


class Gone(web.RequestHandler):
    """Answers once somebody has gone."""

    async def get(self) -> None:
        while not GONE:
            await asyncio.sleep(0.01)
        self.finish(json.dumps(GONE))


class Broken(web.RequestHandler):
    """Breaks off in the middle of its answer, or before it."""

    async def get(self, where: str) -> None:
        stream = self.detach()
        if where == "middle":
            await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        elif where == "head":
            await stream.write(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200_000)
        elif where == "nonsense":
            await stream.write(b"220 smtp.example.com ESMTP\r\n\r\n")
        stream.close()


class Status(web.RequestHandler):
    """Answers with a status and no body."""

    async def get(self, status: str) -> None:
        self.set_status(int(status))


class Socket(websocket.WebSocketHandler):
    """Says everything again; "bye" closes."""

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "chat" if "chat" in subprotocols else None

    def on_message(self, message: str | bytes) -> None:
        if message == "bye":
            self.close(4321, "so long")
        else:
            self.write_message(message, binary=isinstance(message, bytes))

    def on_close(self) -> None:
        GONE.append(f"socket {self.close_code}")


async def main(port: int) -> None:
    routes: list[Any] = [
        (r"/events", Events),
        (r"/upload", Upload),
        (r"/impatient", Impatient),
        (r"/download/(\d+)", Download),
        (r"/redirect", Redirect),
        (r"/cookies", Cookies),
        (r"/silent", Silent),
        (r"/gone", Gone),
        (r"/broken/(\w+)", Broken),
        (r"/status/(\d+)", Status),
        (r"/socket", Socket),
        (r"/.*", Echo),
    ]
    web.Application(routes, websocket_max_message_size=1 << 26).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
