"""The kernel's one client of the engine, and the one thread that watches its runs.

Commands, `Run` objects and the completion ask `session()`; nothing connects before the first of
them needs it, and what connects starts an engine if none runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from dstack_engine.address import find_engine, has_crashed
from dstack_engine.client import Client
from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_jupyter.fleet_watching import FleetWatcher
from dstack_jupyter.watching import Watcher


class Session:
    """One process's way to the engine of one home. Thread-safe."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._watcher: Watcher | None = None
        self._fleets = FleetWatcher(self._client_again)

    def client(self, *, start: bool = True, on_wait: Callable[[str], None] | None = None) -> Client:
        """Return a client of a living engine.

        Starts one if none runs and *start* is true; *on_wait* is told why that takes a while.
        Raises `EngineDown`, `EngineStartFailed`, `EngineVersionMismatch`.
        """
        with self._lock:
            if self._client is None:
                self._client = connect(self.home, start=start, on_wait=on_wait)
            elif find_engine(self.home) is None:
                # The client finds an engine again by itself, and its streams go on: keep it.
                connect(self.home, start=start, on_wait=on_wait).close()
            return self._client

    def watcher(self) -> Watcher:
        """Return the watcher of this process; its thread starts with the first run it follows."""
        with self._lock:
            if self._watcher is None:
                self._watcher = Watcher(self._client_again)
            return self._watcher

    def fleets(self) -> FleetWatcher:
        """Return who watches fleets of this process."""
        return self._fleets

    def close(self) -> None:
        """Stop watching and let the client go; engine and runs stay as they are."""
        self._fleets.close()
        with self._lock:
            watcher, self._watcher = self._watcher, None
            self._forget_client()
        if watcher is not None:
            watcher.close()

    def _client_again(self) -> Client:
        # An engine that crashed is started again for the runs it left; one that was stopped is not.
        return self.client(start=has_crashed(self.home))

    def _forget_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


_lock = threading.Lock()
_session: Session | None = None


def session() -> Session:
    """Return this process's session; another one if `DSTACK_JUPYTER_HOME` has changed."""
    global _session
    home = Home.of_user()
    with _lock:
        if _session is not None and _session.home != home:
            _session.close()
            _session = None
        if _session is None:
            _session = Session(home)
        return _session


def close_session() -> None:
    """Close this process's session, if there is one; called when the extension is unloaded."""
    global _session
    with _lock:
        closing, _session = _session, None
    if closing is not None:
        closing.close()
