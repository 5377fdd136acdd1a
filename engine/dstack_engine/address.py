"""Where the home's engine listens: `engine.json`, and the lock that tells whether it is true.

The engine writes it, clients read it. The lock's file names the pid of the engine that holds it,
so an `engine.json` left over from a crash deceives nobody.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from io import FileIO

from dstack_engine import presence
from dstack_engine.errors import EngineDown
from dstack_engine.home import Home, write_private


@dataclass(frozen=True)
class EngineAddress:
    """What `engine.json` says: where the engine listens, and the word that it wants to hear."""

    port: int
    token: str = field(repr=False)
    pid: int
    version: str
    protocol: int

    @property
    def url(self) -> str:
        """Return the base of every endpoint's address."""
        return f"http://127.0.0.1:{self.port}"


def find_engine(home: Home) -> EngineAddress | None:
    """Return where the home's engine is, or None where none lives."""
    return presence.find(home.engine_file, home.engine_lock, EngineAddress)


def has_crashed(home: Home) -> bool:
    """Tell whether the last engine went without goodbye: its `engine.json` lies there, unlocked."""
    return home.engine_file.exists() and presence.lock_holder(home.engine_lock) is None


def no_engine() -> EngineDown:
    """Return the error for an engine that is not there."""
    return EngineDown(
        "No engine runs.",
        hint="Start it: %dstack engine start, or in a terminal: dstack-jupyter engine start.",
    )


def take_lock(home: Home) -> FileIO | None:
    """Take the engine's lock for this process; None when another engine lives."""
    return presence.take_lock(home.engine_lock)


def publish(home: Home, address: EngineAddress) -> None:
    """Write `engine.json` (0600) in one step."""
    write_private(home.engine_file, json.dumps(asdict(address)).encode())
