"""Whether a port of this computer is in use: asked by binding it for a moment."""

from __future__ import annotations

import os
import socket
from pathlib import Path

#: Below it only root may listen (Linux; the same number everywhere else).
_PRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def is_taken(port: int) -> bool:
    """Tell whether something on this computer holds TCP *port* on loopback or on all addresses.

    A port that may not be bound (below 1024, not root) is not taken: that is told apart elsewhere.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without it a port whose connections linger in TIME_WAIT would seem taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return False
        except OSError:
            return True
    return False


def lowest_port() -> int:
    """Return the lowest port that this user's programs may listen on."""
    if os.geteuid() == 0:
        return 1
    try:
        return max(int(_PRIVILEGED.read_text()), 1)
    except (OSError, ValueError):
        return 1024
