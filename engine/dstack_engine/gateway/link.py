"""The engine's side of the gateway: starts it, finds it, tells it what is published, listens.

The reconcilers publish through a `GatewayLink` and read its newest report. The gateway is a process
of its own and goes on when the engine ends; the next engine's link finds it by its address. Nothing
here knows the proxy's libraries.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from time import monotonic

from dstack_engine import __version__, detached
from dstack_engine.gateway.address import (
    GatewayAddress,
    connect_control,
    control_path,
    find_gateway,
)
from dstack_engine.gateway.messages import merge
from dstack_engine.gateway.worker_link import ANSWER_TIMEOUT, WorkerLink, ask
from dstack_engine.home import Home
from dstack_engine.records.publication import GatewayReport, Publication

logger = logging.getLogger(__name__)

#: How long a started gateway may take until it can be told something; seconds.
START_TIMEOUT = 30.0
#: How often it is looked whether the gateway lives, while nothing says that it does not; seconds.
LOOK_EVERY = 1.0
#: The same while one is awaited.
AWAIT_EVERY = 0.02
#: Pauses before a gateway that could not be started is tried again: at first, and at most; seconds.
FIRST_REST = 0.5
LONGEST_REST = 30.0


class GatewayLink:
    """The engine's one link to its home's gateway. Methods may be called from any thread.

    *on_report* is called with each report, merged over the workers, and *on_change* when `port` or
    `trouble` has changed; both from the link's own threads, and neither may take long.
    """

    def __init__(
        self,
        home: Home,
        *,
        port: int,
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
        self._listeners: list[WorkerLink] = []
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
                    detached.reap_later(child)
                return None
            if child.poll() == 0 and address is None:
                return None  # another gateway was first, or is just ending
            if child.poll():
                said = _last_words(self._output)
                return f"The gateway could not be started (exit code {child.returncode}). {said}"
            self._stopped.wait(AWAIT_EVERY)
        detached.reap_later(child)
        return f"The gateway did not answer within {START_TIMEOUT:.0f} s of its start."

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._home.make()
        self._output.unlink(missing_ok=True)
        port, processes = self._asked
        asked = ("--home", str(self._home.root), "--port", str(port), "--processes", str(processes))
        return detached.start("dstack_engine.gateway", *asked, output=self._output)

    @property
    def _output(self) -> Path:
        return self._home.gateway / "output"

    def _take_up(self, address: GatewayAddress) -> None:
        logger.info("gateway %d: found on port %d", address.pid, address.port)
        with self._lock:
            self._listeners = [
                WorkerLink(self._home, number, on_report=self._heard, on_lost=self._wake.set)
                for number in range(address.processes)
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
                ask(self._home, number, "POST", "/stop")
                break
            except (OSError, HTTPException) as error:
                logger.debug("gateway %d, worker %d: %s", address.pid, number, error)
        begun = monotonic()
        tick = threading.Event()
        while find_gateway(self._home) == address and monotonic() - begun < ANSWER_TIMEOUT:
            tick.wait(AWAIT_EVERY)

    # The workers' threads

    def _heard(self) -> None:
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


def _answers(home: Home) -> bool:
    """Tell whether the first worker can be told something."""
    try:
        connect_control(control_path(home, 0), ANSWER_TIMEOUT).close()
    except OSError:
        return False
    return True


def _last_words(output: Path) -> str:
    try:
        lines = output.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:500] if lines else "It said nothing."
