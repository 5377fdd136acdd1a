"""A route: an address on this computer and the port of a job behind it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """A task's forwarded port: `localhost:local_port` reaches the job's `container_port`."""

    local_port: int
    container_port: int
    #: Address that the local port listens on; loopback unless the user asks otherwise.
    address: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """Return the address to open in a browser."""
        return f"http://localhost:{self.local_port}"
