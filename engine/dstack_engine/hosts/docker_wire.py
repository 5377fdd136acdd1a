"""Bare HTTP to the Docker Engine, for what must be quick or huge: a ping, output, a tar going up.

The docker SDK decodes a followed log chunk by chunk, one chunk for every line, at a tenth of the
speed. Asked in HTTP/1.0 the engine sends it as one plain stream. Used by the Docker host alone.
"""

from __future__ import annotations

import json
import math
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse
from io import RawIOBase
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import quote, urlencode, urlsplit

from docker.errors import APIError, NotFound

from dstack_engine.errors import ContainerFailed, HostUnreachable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

DEFAULT_URL = "unix:///var/run/docker.sock"
#: Seconds for a connection to be made; an engine on this computer takes less than 0.001.
CONNECT_TIMEOUT = 5.0
#: Seconds without any answer or progress after which the engine counts as gone.
ANSWER_TIMEOUT = 120.0

_UPLOAD_CHUNK = 256 << 10


class Connection(HTTPConnection):
    """One connection to the engine at a ``unix://`` or ``tcp://`` address."""

    def __init__(self, url: str, *, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("unix", "tcp", "http"):
            raise HostUnreachable(
                f"{url} is no address of a Docker Engine that can be used here",
                hint="It begins with unix:// or tcp://; another machine's is forwarded by ssh.",
            )
        super().__init__(parts.hostname or "docker", parts.port or 2375, timeout=timeout)
        self._path = parts.path if parts.scheme == "unix" else None

    def connect(self) -> None:
        """Open the socket."""
        if self._path is None:
            super().connect()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class PlainConnection(Connection):
    """A connection of HTTP/1.0: the answer is not cut into chunks and ends with the connection."""

    _http_vsn = 10
    _http_vsn_str = "HTTP/1.0"


def ping(url: str, timeout: float) -> None:
    """Return once the engine has answered; raises what a lost connection raises."""
    if ask(url, "/_ping", timeout) is None:
        raise ConnectionError("it answers, but not as a Docker Engine")


def ask(url: str, path: str, timeout: float) -> bytes | None:
    """Return what the engine answers to a GET of *path*; None when it has no such thing.

    For a short answer from an engine that may hang: *timeout* is in seconds. Raises what a lost
    connection raises.
    """
    connection = PlainConnection(url, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise ConnectionError(f"it answers with status {answer.status}")
        return body
    finally:
        connection.close()


def call(
    url: str, method: str, path: str, body: object = None, *, timeout: float
) -> tuple[int, bytes]:
    """Return status and body of the engine's answer; *body* is bytes (a tar), else sent as JSON.

    For short requests to an engine that may hang: *timeout* is in seconds. Raises what a lost
    connection raises.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
    connection = PlainConnection(url, timeout=timeout)
    try:
        sent = None if body is None else content
        connection.request(method, path, sent, {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def stream(url: str, path: str) -> Iterator[bytes]:
    """Yield what the engine answers to a GET of *path*, in pieces as it comes.

    Raises `APIError` and what a lost connection raises; one that is cut short just ends.
    """
    connection = PlainConnection(url, timeout=ANSWER_TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        _raise_for_status(answer)
        while chunk := answer.read1(_UPLOAD_CHUNK):
            yield chunk
    finally:
        connection.close()


def refusal(body: bytes) -> str:
    """Return the engine's own words in the body of an answer that refuses."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, LookupError, TypeError):
        return body[: 64 << 10].decode(errors="replace").strip()


class LogStream:
    """A container's log as the engine sends it, read in large pieces.

    From *since_ns* on, and no more than the last *tail* entries; with *follow* it goes on until
    the container ends. Raises `APIError` (404 when the container is absent) and what a lost
    connection raises.
    """

    def __init__(
        self, url: str, name: str, *, since_ns: int, follow: bool, tail: int | None = None
    ) -> None:
        query = {
            "tail": "all" if tail is None else tail,
            "stdout": 1,
            "stderr": 1,
            "timestamps": 1,
            "follow": int(follow),
            "since": f"{since_ns // 10**9}.{since_ns % 10**9:09d}",
        }
        self._connection = PlainConnection(url, timeout=ANSWER_TIMEOUT)
        path = f"/containers/{quote(name)}/logs?{urlencode(query)}"
        self._connection.request("GET", path)
        sock = self._connection.sock
        self._answer = self._connection.getresponse()
        _raise_for_status(self._answer)
        # A silent container may stay silent for days.
        sock.settimeout(None if follow else ANSWER_TIMEOUT)

    def read(self, size: int) -> bytes:
        """Return what has come, at most *size* bytes; nothing at the end."""
        return self._answer.read1(size)

    def close(self) -> None:
        """Close the connection."""
        self._answer.close()
        self._connection.close()


class AttachStream:
    """What a container prints from now on, as it comes, with an eight-byte header to each piece.

    To have all of it, it is opened before the container is started. Raises as `LogStream` does.
    """

    def __init__(self, url: str, name: str) -> None:
        self._connection = PlainConnection(url, timeout=ANSWER_TIMEOUT)
        query = urlencode({"stream": 1, "stdout": 1, "stderr": 1})
        self._connection.request("POST", f"/containers/{quote(name)}/attach?{query}")
        self._socket = self._connection.sock
        self._answer = self._connection.getresponse()
        _raise_for_status(self._answer)
        self._socket.settimeout(None)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def wait(self, seconds: float | None) -> bool:
        """Wait until something has come, *seconds* at most; return whether it has."""
        return bool(self._poll.poll(None if seconds is None else math.ceil(seconds * 1000)))

    def read(self, size: int) -> bytes:
        """Return what has come, at most *size* bytes; nothing at the end."""
        return self._answer.read1(size)

    def interrupt(self) -> None:
        """Have a waiting reader see the end; for any thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; for the thread that reads."""
        self._answer.close()
        self._connection.close()


def put_archive(url: str, name: str, folder: str, write: Callable[[BinaryIO], None]) -> None:
    """Unpack in the container's *folder* the tar that *write* writes.

    Nothing is held but a chunk. Raises `APIError`, `ContainerFailed` when *write* cannot read what
    it is to write, and what a lost connection raises.
    """
    path = f"/containers/{quote(name)}/archive?{urlencode({'path': folder})}"
    _send_tar(url, "PUT", path, write, f"the files for {name}")


def load_images(url: str, write: Callable[[BinaryIO], None]) -> None:
    """Have the engine take the images in the archive that *write* writes; raises as `put_archive`.

    The engine unpacks when all is there; it tells of each layer, so that a long silence is an end.
    """
    said = _send_tar(url, "POST", "/images/load?quiet=0", write, "an image")
    for line in said.splitlines():
        if b'"error"' in line:
            why = str(json.loads(line).get("error"))
            raise APIError(f"the image is refused: {why}", explanation=why)


def _send_tar(
    url: str, method: str, path: str, write: Callable[[BinaryIO], None], what: str
) -> bytes:
    connection = Connection(url, timeout=ANSWER_TIMEOUT)
    try:
        connection.putrequest(method, path)
        connection.putheader("Content-Type", "application/x-tar")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        body = _ChunkedBody(connection)
        try:
            write(cast(BinaryIO, body))
            body.finish()
        except _Refused:
            pass  # The engine's answer, sent before the end, says why.
        except OSError as error:
            raise ContainerFailed(f"cannot read {what}: {error}") from error
        answer = connection.getresponse()
        _raise_for_status(answer)
        return answer.read()
    finally:
        connection.close()


class _Refused(Exception):
    """The engine takes no more of the body."""


class _ChunkedBody(RawIOBase):
    """The body of a request, sent as it is written."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection
        self._held = bytearray()
        self._sent = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._sent + len(self._held)

    def write(self, data: ReadableBuffer, /) -> int:
        self._held += data
        if len(self._held) >= _UPLOAD_CHUNK:
            self._send()
        return memoryview(data).nbytes

    def finish(self) -> None:
        """Send the rest and the end mark."""
        self._send()
        self._raw_send(b"0\r\n\r\n")

    def _send(self) -> None:
        if self._held:
            self._raw_send(b"%x\r\n%b\r\n" % (len(self._held), bytes(self._held)))
            self._sent += len(self._held)
            self._held.clear()

    def _raw_send(self, data: bytes) -> None:
        try:
            self._connection.send(data)
        except OSError as error:
            raise _Refused from error


def _raise_for_status(answer: HTTPResponse) -> None:
    """Raise the SDK's own error for a refusal, so that there is one kind to translate."""
    if answer.status < 400:
        return
    why = refusal(answer.read(64 << 10)) or answer.reason
    kind = NotFound if answer.status == 404 else APIError
    raise kind(f"{answer.status} {answer.reason}", explanation=why)
