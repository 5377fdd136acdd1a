"""The gateway's port on loopback: claimed by one gateway, listened to by each of its workers."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Iterable

from dstack_engine.errors import PortTaken

#: How many ports after the one asked for are tried.
NEXT_PORTS = 100
#: A port of before is waited for so long (s): the gateway that had it may just be letting it go.
PATIENCE = 3.0
_PAUSE = 0.02
#: Connections that wait to be accepted, of each worker; the kernel may allow fewer.
BACKLOG = 4096


def claim(port: int, *, before: int | None, workers: int) -> list[socket.socket]:
    """Return a listening socket for each of *workers*, all at one port of 127.0.0.1.

    The port is *before*, that of the last gateway, if it can be had; else *port* or the next free
    one after it (0: any). Raises `PortTaken` when a hundred in a row are in use.
    """
    if before is not None:
        first = _wait_for(before)
        if first is not None:
            return _share(first, workers)
    for candidate in _candidates(port):
        first = _bind_alone(candidate)
        if first is not None:
            return _share(first, workers)
    raise PortTaken(
        f"No port from {port} to {port + NEXT_PORTS} of 127.0.0.1 is free for the gateway.",
        hint="Name another in config.yml: gateway: {port: 8080}.",
    )


def _candidates(port: int) -> Iterable[int]:
    return [0] if port == 0 else range(port, min(port + NEXT_PORTS, 65535) + 1)


def _wait_for(port: int) -> socket.socket | None:
    pause = threading.Event()
    for _ in range(round(PATIENCE / _PAUSE)):
        found = _bind_alone(port)
        if found is not None:
            return found
        pause.wait(_PAUSE)
    return None


def _bind_alone(port: int) -> socket.socket | None:
    """Return a socket at *port* if nobody else has it.

    Workers share a port by SO_REUSEPORT, which would also let two gateways of one user share one
    and take each other's requests. So the first socket is bound without it.
    """
    listener = _tcp_socket()
    try:
        listener.bind(("127.0.0.1", port))
        return listener
    except OSError as error:
        listener.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        return None


def _share(first: socket.socket, workers: int) -> list[socket.socket]:
    listeners = [first]
    with contextlib.ExitStack() as opened:
        opened.enter_context(first)
        if workers > 1:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(workers - 1):
            another = opened.enter_context(_tcp_socket())
            another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            another.bind(first.getsockname())
            listeners.append(another)
        for listener in listeners:
            listener.listen(BACKLOG)
        opened.pop_all()
    return listeners


def _tcp_socket() -> socket.socket:
    # asyncio switches Nagle's algorithm off only for sockets that say they are TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return listener
