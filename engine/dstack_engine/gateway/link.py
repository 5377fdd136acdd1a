"""The engine's side of the gateway: starts it, finds it, tells it what is published, listens.

The reconcilers publish through a `GatewayLink` and read its newest report. The gateway is a process
of its own and goes on when the engine ends; the next engine's link finds it by its address. Nothing
here knows the proxy's libraries.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic

from dstack_engine import __version__
from dstack_engine.gateway.address import (
    GatewayAddress,
    connect_control,
    control_path,
    find_gateway,
)
from dstack_engine.gateway.messages import decode_report, encode_publication, merge
from dstack_engine.home import Home
from dstack_engine.records.publication import GatewayReport, Publication

logger = logging.getLogger(__name__)

#: Where the gateway listens if nothing else is said.
DEFAULT_PORT = 4180
#: How long a started gateway may take until it can be told something; seconds.
START_TIMEOUT = 30.0
#: How often it is looked whether the gateway lives, while nothing says that it does not; seconds.
LOOK_EVERY = 1.0
#: The same while one is awaited, and how often a worker is tried that does not answer, at first
#: and at most; seconds.
AWAIT_EVERY = 0.02
RETRY_EVERY = 0.5
#: Pauses before a gateway that could not be started is tried again: at first, and at most; seconds.
FIRST_REST = 0.5
LONGEST_REST = 30.0
#: How long a worker may take to answer, in seconds. Reports come once a second.
ANSWER_TIMEOUT = 10.0


class GatewayLink:
    """The engine's one link to its home's gateway. Methods may be called from any thread.

    *on_report* is called with each report, merged over the workers, and *on_change* when `port` or
    `trouble` has changed; both from the link's own threads, and neither may take long.
    """

    def __init__(
        self,
        home: Home,
        *,
        port: int = DEFAULT_PORT,
        processes: int = 1,
        on_report: Callable[[GatewayReport], None] = lambda report: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._home = home
        self._asked = (port, processes)
        self._on_report = on_report
        self._on_change = on_change
        #: The newest report, merged over the workers; None while no gateway is heard.
        self.report: GatewayReport | None = None
        #: Where the gateway listens; None while there is none.
        self.port: int | None = None
        #: Why there is none though one is wanted, in a sentence.
        self.trouble: str | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._publication: Publication | None = None
        self._listeners: list[_Listener] = []
        self._address: GatewayAddress | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._rest = 0.0
        self._heard_at = 0.0
        self._watcher = threading.Thread(target=self._watch, name="gateway", daemon=True)

    def start(self) -> None:
        """Begin to watch: a gateway that already runs is found, one that is wanted is started."""
        self._watcher.start()

    def publish(self, publication: Publication) -> None:
        """Have *publication* told, now and to every gateway that comes; does not block.

        The last one published counts. Where it has services and no gateway runs, one is started.
        """
        with self._lock:
            self._publication = publication
            listeners = list(self._listeners)
        for listener in listeners:
            listener.tell(publication)
        self._wake.set()

    def stop(self, *, gateway_too: bool = False) -> None:
        """End the link. The gateway goes on, unless *gateway_too*: then it ends as well."""
        self._stopped.set()
        self._wake.set()
        if self._watcher.is_alive():
            self._watcher.join(5)
        self._let_go()
        address = find_gateway(self._home) if gateway_too else None
        if address is not None:
            self._end_gateway(address)
        elif gateway_too and self._child is not None and self._child.poll() is None:
            self._child.terminate()  # it was just being started

    # The watcher's thread

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                pause = self._look()
            except Exception:
                logger.exception("The gateway cannot be watched.")
                pause = LOOK_EVERY
            self._wake.wait(pause)
            self._wake.clear()

    def _look(self) -> float:
        """See to it that a gateway runs if one is wanted; return when (s) to look again."""
        address = find_gateway(self._home)
        if address is not None and not self._suits(address):
            logger.info("gateway %d: another takes its place", address.pid)
            self._end_gateway(address)
            address = None
        if address != self._address:
            self._let_go()
            if address is not None:
                self._take_up(address)
        if address is None:
            return self._start_if_wanted()
        if monotonic() - self._heard_at > ANSWER_TIMEOUT:
            log = self._home.gateway / "gateway.log"
            self._complain(f"The gateway (process {address.pid}) does not answer; see {log}.")
        return LOOK_EVERY

    def _suits(self, address: GatewayAddress) -> bool:
        return (address.version, address.asked, address.processes) == (__version__, *self._asked)

    def _start_if_wanted(self) -> float:
        with self._lock:
            wanted = self._publication is not None and bool(self._publication.services)
        if not wanted or self._stopped.is_set():
            return LOOK_EVERY
        why = self._start()
        if why is None:
            self._rest = 0.0
            return 0.0
        self._rest = min(max(self._rest * 2, FIRST_REST), LONGEST_REST)
        self._complain(why)
        self._stopped.wait(self._rest)
        return 0.0

    def _start(self) -> str | None:
        """Start a gateway and wait until it is there; return why that failed, if it did."""
        try:
            child = self._child = self._spawn()
        except OSError as error:
            return f"The gateway cannot be started: {error.strerror or error}."
        begun = monotonic()
        while monotonic() - begun < START_TIMEOUT and not self._stopped.is_set():
            address = find_gateway(self._home)
            if address is not None and _answers(self._home):
                if address.pid == child.pid:
                    _reap_later(child)
                return None
            if child.poll() == 0 and address is None:
                return None  # another gateway was first, or is just ending
            if child.poll():
                said = _last_words(self._output)
                return f"The gateway could not be started (exit code {child.returncode}). {said}"
            self._stopped.wait(AWAIT_EVERY)
        _reap_later(child)
        return f"The gateway did not answer within {START_TIMEOUT:.0f} s of its start."

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._home.make()
        output = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        port, processes = self._asked
        command = [sys.executable, "-m", "dstack_engine.gateway", "--home", str(self._home.root)]
        command += ["--port", str(port), "--processes", str(processes)]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # the gateway outlives the engine
            )
        finally:
            os.close(output)

    @property
    def _output(self) -> Path:
        return self._home.gateway / "output"

    def _take_up(self, address: GatewayAddress) -> None:
        logger.info("gateway %d: found on port %d", address.pid, address.port)
        with self._lock:
            self._listeners = [
                _Listener(self, self._home, number) for number in range(address.processes)
            ]
            publication = self._publication
        self._address, self.port, self.trouble = address, address.port, None
        self._heard_at = monotonic()
        for listener in self._listeners:
            if publication is not None:
                listener.tell(publication)
            listener.start()
        self._on_change()

    def _let_go(self) -> None:
        with self._lock:
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        lost, self._address = self._address, None
        self.port = self.report = None
        if lost is not None:
            if not self._stopped.is_set():
                logger.warning("gateway %d: gone", lost.pid)
            self._on_change()

    def _complain(self, why: str) -> None:
        if why != self.trouble:
            logger.error("%s", why)
            self.trouble = why
            self._on_change()

    def _end_gateway(self, address: GatewayAddress) -> None:
        """Have the gateway end, which lets go of its port and lock at once; wait for that."""
        for number in range(address.processes):
            try:
                _ask(self._home, number, "POST", "/stop")
                break
            except (OSError, HTTPException) as error:
                logger.debug("gateway %d, worker %d: %s", address.pid, number, error)
        begun = monotonic()
        tick = threading.Event()
        while find_gateway(self._home) == address and monotonic() - begun < ANSWER_TIMEOUT:
            tick.wait(AWAIT_EVERY)

    # For the listeners

    def heard(self) -> None:
        """Merge what the workers reported last, and pass it on."""
        with self._lock:
            reports = [each.report for each in self._listeners if each.report is not None]
            if not reports:
                return
            self.report = merged = merge(reports)
        self._heard_at = monotonic()
        if self.trouble is not None:
            self.trouble = None
            self._on_change()
        try:
            self._on_report(merged)
        except Exception:
            logger.exception("A report of the gateway could not be used.")

    def lost(self) -> None:
        """Look at once whether the gateway still lives."""
        self._wake.set()


class _Listener:
    """The link to one worker: a thread that listens, another that tells."""

    def __init__(self, link: GatewayLink, home: Home, worker: int) -> None:
        self._link = link
        self._home = home
        self._worker = worker
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
        self._mouth.start()
        self._ear.start()

    def tell(self, publication: Publication) -> None:
        with self._news:
            self._publication, self._told = publication, False
            self._news.notify_all()

    def close(self) -> None:
        self._closed.set()
        with self._news:
            self._news.notify_all()
        if self._connection is not None:
            self._connection.cut()

    # One thread: what the worker says

    def _listen(self) -> None:
        pause = AWAIT_EVERY
        while not self._closed.is_set():
            try:
                self._hear_out()
            except (OSError, HTTPException, ValueError) as error:
                logger.debug("gateway worker %d: %s", self._worker, error)
            pause = AWAIT_EVERY if self.report else min(pause * 1.5, RETRY_EVERY)
            self.report = None
            if not self._closed.is_set():
                self._link.lost()
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
                self._link.heard()
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
            status, answer = _ask(self._home, self._worker, "PUT", path, body)
            if status == 409:
                served = int(json.loads(answer)["version"])
                logger.warning("The gateway has version %d, which is newer: replaced.", served)
                path += f"?instead={served}"
                status, answer = _ask(self._home, self._worker, "PUT", path, body)
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


def _ask(
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


def _answers(home: Home) -> bool:
    """Tell whether the first worker can be told something."""
    try:
        connect_control(control_path(home, 0), ANSWER_TIMEOUT).close()
    except OSError:
        return False
    return True


def _environment() -> dict[str, str]:
    kept = dict(os.environ)
    paths = [path for path in sys.path if path and Path(path, "dstack_engine").is_dir()]
    if paths and not kept.get("PYTHONPATH"):
        kept["PYTHONPATH"] = paths[0]
    return kept


def _reap_later(process: subprocess.Popen[bytes]) -> None:
    # Without a wait the gateway would stay a zombie of this process after its end.
    threading.Thread(target=process.wait, name="gateway reaper", daemon=True).start()


def _last_words(output: Path) -> str:
    try:
        lines = output.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:500] if lines else "It said nothing."
