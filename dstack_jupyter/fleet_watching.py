"""Follows a fleet while its machines are being looked into: for its card, the terminal, `--wait`.

One thread for each fleet that is followed, which is over when every machine can be used, when the
fleet is gone, or when nobody has mended anything for `PATIENCE`. Made by `session`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from dstack_engine.client import Client
from dstack_engine.connection import Leash
from dstack_engine.errors import DstackError, NotFound
from dstack_engine.records.fleets import Fleet, FleetView
from dstack_engine.records.instances import Instance
from dstack_engine.records.updates import CaughtUp, RecordChanged, Update
from dstack_jupyter.machines import hosts_of, is_looked_into, is_settled, runs_on
from dstack_jupyter.rendering.fleets import Runs

logger = logging.getLogger(__name__)

#: How long a fleet is followed whose machines are not all usable, in seconds.
PATIENCE = 900.0
#: How long it may take to look into the machines of a fleet, in seconds: each has 30.
LOOKING = 60.0
#: Waits between attempts to reach an engine that is away, in seconds.
WAITS = (0.1, 0.2, 0.5, 1.0, 2.0)


class FleetFollower(Protocol):
    """Who hears of a fleet, in its watch's thread."""

    def update(self, view: FleetView, runs: Runs) -> None:
        """The fleet or one of its machines has changed; *runs* are those on each."""

    def ended(self) -> None:
        """Nothing follows."""


class Looked:
    """A follower that waits until every machine of a fleet was looked into."""

    def __init__(self, view: FleetView, since: datetime | None = None) -> None:
        """Make one; what was found until *since* does not count."""
        self.view = view
        self.runs: Runs = {}
        self.over = threading.Event()
        self._since = since

    @property
    def share(self) -> float:
        """How many of the machines were looked into, 0–1."""
        return self._count() / max(len(hosts_of(self.view)), len(self.view.instances), 1)

    def update(self, view: FleetView, runs: Runs) -> None:
        """Keep what is newest."""
        self.view, self.runs = view, runs
        if self.share >= 1:
            self.over.set()

    def ended(self) -> None:
        """Let the wait be over."""
        self.over.set()

    def _count(self) -> int:
        return sum(is_looked_into(one, self._since) for one in self.view.instances)


class FleetWatcher:
    """Tells followers what happens to their fleets. Thread-safe; one per `Session`."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        """Make a watcher; *connect* gives a client, or raises `EngineDown` while no engine runs."""
        self._connect = connect
        self._lock = threading.Lock()
        self._watches: list[_Watch] = []

    def follow(
        self, view: FleetView, follower: FleetFollower, *, patience: float = PATIENCE
    ) -> None:
        """Tell *follower* how the fleet of *view* stands, from now until it is settled."""
        watch = _Watch(self._connect, view, follower, patience)
        with self._lock:
            self._watches = [one for one in self._watches if not one.over.is_set()]
            self._watches.append(watch)
        watch.begin()

    def forget(self, follower: FleetFollower) -> None:
        """Tell *follower* nothing more."""
        self._end(lambda watch: watch.follower is follower)

    def close(self) -> None:
        """End every thread; followers hear nothing more."""
        self._end(lambda _watch: True)

    def _end(self, is_meant: Callable[[_Watch], bool]) -> None:
        with self._lock:
            meant = [watch for watch in self._watches if is_meant(watch)]
        for watch in meant:
            watch.end()


class _Watch:
    """One fleet that one follower hears of."""

    def __init__(
        self,
        connect: Callable[[], Client],
        view: FleetView,
        follower: FleetFollower,
        patience: float,
    ) -> None:
        self.follower = follower
        #: Nothing is told any more.
        self.over = threading.Event()
        self._connect = connect
        self._view = view
        self._leash = Leash()
        self._timer = threading.Timer(patience, self._lapse)
        self._timer.daemon = True

    def begin(self) -> None:
        """Tell how the fleet stands, and begin to listen."""
        self.follower.update(self._view, {})
        self._timer.start()
        threading.Thread(target=self._run, name="dstack-fleet", daemon=True).start()

    def end(self) -> None:
        """Tell nothing more."""
        self.over.set()
        self._timer.cancel()
        self._leash.cut()

    def _lapse(self) -> None:
        self._leash.cut()

    def _run(self) -> None:
        failures = 0
        while not self._leash.is_cut:
            try:
                if self._read():
                    break
                failures = 0
            except DstackError as error:
                logger.debug("the fleet %s cannot be followed: %s", self._view.fleet.name, error)
                failures += 1
            except Exception:
                logger.exception("a view of the fleet %s failed", self._view.fleet.name)
                break
            self.over.wait(WAITS[min(failures, len(WAITS) - 1)])
        self._timer.cancel()
        if not self.over.is_set():
            self.over.set()
            self.follower.ended()

    def _read(self) -> bool:
        """Read the stream until it breaks off; return whether there is nothing more to tell."""
        client = self._connect()
        for update in client.updates(reconnect=False, leash=self._leash):
            if self.over.is_set():
                return True
            if self._concerns(update) and self._look(client):
                return True
        return False

    def _concerns(self, update: Update) -> bool:
        """Tell whether the fleet may be another after *update*."""
        if isinstance(update, CaughtUp):
            return True
        if not isinstance(update, RecordChanged):
            return False
        record = update.event.record
        name = self._view.fleet.name
        if isinstance(record, Fleet):
            return record.name == name
        return isinstance(record, Instance) and record.fleet == name

    def _look(self, client: Client) -> bool:
        try:
            self._view = client.fleet(self._view.fleet.name)
        except NotFound:
            return True
        self.follower.update(self._view, runs_on(client.runs()))
        return is_settled(self._view)
