"""The engine's link to one worker of the gateway: what it is told, and what it reports.

`link` has one for each worker. Standard library alone: HTTP over the worker's control socket.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

from dstack_engine.gateway.address import connect_control, control_path
from dstack_engine.gateway.messages import decode_report, encode_publication
from dstack_engine.home import Home
from dstack_engine.records.publication import GatewayReport, Publication

logger = logging.getLogger(__name__)

#: How long a worker may take to answer, in seconds. Reports come once a second.
ANSWER_TIMEOUT = 10.0
#: How often a worker is tried that does not answer, at first and at most; seconds.
FIRST_RETRY = 0.02
RETRY_EVERY = 0.5


class WorkerLink:
    """The link to one worker: a thread that listens, another that tells."""

    def __init__(
        self,
        home: Home,
        worker: int,
        *,
        on_report: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._on_report = on_report
        self._on_lost = on_lost
        self._home = home
        self._worker = worker
        #: What it reported last; None while it is not heard.
        self.report: GatewayReport | None = None
        self._closed = threading.Event()
        self._news = threading.Condition()
        self._publication: Publication | None = None
        self._told = True
        self._connection: _Connection | None = None
        name = f"gateway {worker}"
        self._ear = threading.Thread(target=self._listen, name=f"{name} ear", daemon=True)
        self._mouth = threading.Thread(target=self._speak, name=f"{name} mouth", daemon=True)

    def start(self) -> None:
        """Begin to listen and to tell."""
        self._mouth.start()
        self._ear.start()

    def tell(self, publication: Publication) -> None:
        """Have *publication* told, until the worker has it; the last one counts."""
        with self._news:
            self._publication, self._told = publication, False
            self._news.notify_all()

    def close(self) -> None:
        """End, without waiting for the threads."""
        self._closed.set()
        with self._news:
            self._news.notify_all()
        if self._connection is not None:
            self._connection.cut()

    # One thread: what the worker says

    def _listen(self) -> None:
        pause = FIRST_RETRY
        while not self._closed.is_set():
            try:
                self._hear_out()
            except (OSError, HTTPException, ValueError) as error:
                logger.debug("gateway worker %d: %s", self._worker, error)
            pause = FIRST_RETRY if self.report else min(pause * 1.5, RETRY_EVERY)
            self.report = None
            if not self._closed.is_set():
                self._on_lost()
                self._closed.wait(pause)

    def _hear_out(self) -> None:
        """Read reports until the worker or the link ends."""
        connection = self._connection = _Connection(self._home, self._worker)
        try:
            connection.request("GET", "/reports")
            answer = connection.getresponse()
            self._tell_again()  # a worker that is new knows only what lies on disk
            while not self._closed.is_set():
                line = answer.readline()
                if not line.endswith(b"\n"):
                    return
                self.report = decode_report(line)
                self._on_report()
        finally:
            connection.close()

    def _tell_again(self) -> None:
        with self._news:
            self._told = self._publication is None
            self._news.notify_all()

    # Another: what the worker is told

    def _speak(self) -> None:
        while not self._closed.is_set():
            with self._news:
                self._news.wait_for(lambda: not self._told or self._closed.is_set())
                publication = self._publication
                self._told = True
            if publication is None or self._closed.is_set():
                continue
            if not self._put(publication):
                with self._news:
                    self._told = False
                    self._news.wait(RETRY_EVERY)  # or until the ear hears the worker again

    def _put(self, publication: Publication) -> bool:
        """Tell the worker; return whether that need not be done again."""
        body = encode_publication(publication)
        path = "/publication"
        try:
            status, answer = ask(self._home, self._worker, "PUT", path, body)
            if status == 409:
                served = int(json.loads(answer)["version"])
                logger.warning("The gateway has version %d, which is newer: replaced.", served)
                path += f"?instead={served}"
                status, answer = ask(self._home, self._worker, "PUT", path, body)
        except (OSError, HTTPException, ValueError) as error:
            logger.debug("gateway worker %d was not told: %s", self._worker, error)
            return False
        if status == 400:
            logger.error("The gateway does not understand what is published: %r", answer[:500])
        return status in (200, 400)


class _Connection(HTTPConnection):
    """A connection to a worker's control socket."""

    def __init__(self, home: Home, worker: int) -> None:
        super().__init__("gateway", timeout=ANSWER_TIMEOUT)
        self._path = control_path(home, worker)
        self._raw: socket.socket | None = None

    def connect(self) -> None:
        """Open the socket."""
        self.sock = self._raw = connect_control(self._path, ANSWER_TIMEOUT)

    def cut(self) -> None:
        """Have a waiting reader see the end; for any thread."""
        if self._raw is not None:
            with suppress(OSError):
                self._raw.shutdown(socket.SHUT_RDWR)


def ask(
    home: Home, worker: int, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    """Return a worker's answer: its status and body. Raises `OSError` and `HTTPException`."""
    connection = _Connection(home, worker)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
