"""TCP forwards of a process-host job: a local port of another number than the job's own.

Run by the job's supervisor, in one thread, for as long as the job lives. Both directions are
streamed with bounded buffers, and a side that has finished sending may still receive. A bare
interpreter can import it.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BUFFER = 64 << 10
_MAX_CONNECTIONS = 1024


class PortInUse(Exception):
    """A port that the job needs is somebody else's; `port` is its number."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} is in use")
        self.port = port


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens on *port*. Raises `PortInUse`, `OSError` for a forbidden one."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortInUse(port) from error
    listener.setblocking(False)
    return listener


def check_free(port: int) -> None:
    """Raise `PortInUse` when somebody listens on *port* of the loopback already."""
    try:
        listen("127.0.0.1", port).close()
    except PermissionError:
        return  # below 1024 and not root: the job will say so itself


class Forwards:
    """Accepts on listeners and copies to the job's ports; starts its thread at once."""

    def __init__(self, listeners: list[tuple[socket.socket, int]]) -> None:
        self._selector = selectors.DefaultSelector()
        self._connections = 0
        for listener, port in listeners:
            self._selector.register(listener, selectors.EVENT_READ, port)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            for key, events in self._selector.select():
                if isinstance(key.data, int):
                    assert isinstance(key.fileobj, socket.socket)
                    self._accept(key.fileobj, key.data)
                else:
                    key.data.ready(events)

    def _accept(self, listener: socket.socket, port: int) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        if self._connections >= _MAX_CONNECTIONS:
            client.close()
            return
        server = socket.socket(socket.AF_INET)
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.connect_ex(("127.0.0.1", port))
        self._connections += 1
        _Connection(self._selector, client, server, self._closed)

    def _closed(self) -> None:
        self._connections -= 1


class _End:
    """One side of a connection: what waits to be sent to it, and whether it sends still."""

    def __init__(self, end: socket.socket, connection: _Connection) -> None:
        self.socket = end
        self.connection = connection
        self.waiting = bytearray()
        self.finished = False  # it will send nothing more
        self.shut = False  # it was told that nothing more comes
        self.events = 0

    def ready(self, events: int) -> None:
        self.connection.move(self, events)


class _Connection:
    """Two sockets whose bytes are copied to each other."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        client: socket.socket,
        server: socket.socket,
        on_close: Callable[[], None],
    ) -> None:
        self._selector = selector
        self._on_close = on_close
        self._client = _End(client, self)
        self._server = _End(server, self)
        self._connected = False
        self._closed = False
        self._watch()

    def move(self, end: _End, events: int) -> None:
        """Copy what can be copied; close both ends on an error or when both have finished."""
        if self._closed:
            return
        other = self._server if end is self._client else self._client
        try:
            if end is self._server and not self._connected:
                self._check_connected()
            if events & selectors.EVENT_READ:
                self._receive(end, other)
            if events & selectors.EVENT_WRITE:
                _flush(end)
            _flush(other)
            for one, its_source in ((end, other), (other, end)):
                if its_source.finished and not one.waiting and not one.shut:
                    one.shut = True
                    one.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()
            return
        if end.shut and other.shut:
            self._close()
        else:
            self._watch()

    def _check_connected(self) -> None:
        code = self._server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "the job does not listen")
        self._connected = True

    def _receive(self, end: _End, other: _End) -> None:
        try:
            received = end.socket.recv(_BUFFER)
        except BlockingIOError:
            return
        if received:
            other.waiting += received
        else:
            end.finished = True

    def _watch(self) -> None:
        for end, other in ((self._client, self._server), (self._server, self._client)):
            events = 0
            if not end.finished and len(other.waiting) < _BUFFER and self._connected:
                events |= selectors.EVENT_READ
            if end.waiting or (end is self._server and not self._connected):
                events |= selectors.EVENT_WRITE
            self._set(end, events)

    def _set(self, end: _End, events: int) -> None:
        if events == end.events:
            return
        if end.events == 0:
            self._selector.register(end.socket, events, end)
        elif events == 0:
            self._selector.unregister(end.socket)
        else:
            self._selector.modify(end.socket, events, end)
        end.events = events

    def _close(self) -> None:
        self._closed = True
        for end in (self._client, self._server):
            self._set(end, 0)
            end.socket.close()
        self._on_close()


def _flush(end: _End) -> None:
    if not end.waiting:
        return
    try:
        sent = end.socket.send(end.waiting)
    except BlockingIOError:
        return
    del end.waiting[:sent]
