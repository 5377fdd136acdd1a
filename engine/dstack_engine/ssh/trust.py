"""Whom we trust: host keys pinned at the first sight, and what a changed one looked like.

The pins lie in a file of ours, in OpenSSH's own format; `ssh` writes and checks them, `ssh-keygen`
reads and removes them. Called by `links`.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from pathlib import Path

from dstack_engine.home import write_private
from dstack_engine.ssh.commands import Answer, run

#: Seconds for `ssh-keygen`, which asks nobody.
_TIMEOUT = 10.0
_SSH_PORT = 22
_FINGERPRINT = re.compile(r"\b(?:SHA256|MD5):\S+")
#: Of several kinds of key that a user's file holds for one machine, ssh likes the first best.
_KINDS = ("ED25519", "ECDSA", "RSA")


class KnownHosts:
    """The file of pinned keys at *path*; *others* are read besides. For many threads."""

    def __init__(self, path: Path, others: tuple[Path, ...] = ()) -> None:
        self.path = path
        self._others = others
        self._lock = threading.Lock()

    def make(self) -> None:
        """Create the file (0600) where it is missing."""
        with self._lock:
            if not self.path.exists():
                write_private(self.path, b"")

    def fingerprint(self, name: str) -> str | None:
        """Return the fingerprint of the key known for *name*; None where none is known."""
        for file in (self.path, *self._others):
            if not file.exists():
                continue
            said = _keygen("-l", "-F", name, "-f", str(file)).output.decode(errors="replace")
            lines = [line for line in said.splitlines() if not line.startswith("#")]
            for line in sorted(lines, key=_rank):
                if found := _FINGERPRINT.search(line):
                    return found[0]
        return None

    def forget(self, name: str) -> None:
        """Remove what is pinned for *name* in our file."""
        with self._lock:
            _keygen("-R", name, "-f", str(self.path))
            self.path.with_name(f"{self.path.name}.old").unlink(missing_ok=True)


@dataclass(frozen=True)
class KeyChange:
    """What ssh told of a key that is not the pinned one."""

    #: The machine's name among the known hosts: ``10.0.0.5`` or ``[10.0.0.5]:2222``.
    name: str
    #: The fingerprint of the key that it shows now.
    shown: str
    #: Where the pinned one lies.
    file: Path
    line: int

    @property
    def pinned(self) -> str:
        """Return the fingerprint of the pinned one."""
        try:
            key = self.file.read_bytes().splitlines()[self.line - 1]
        except (OSError, IndexError):
            return "unknown"
        said = _keygen("-l", "-f", "-", given=key + b"\n").output.decode(errors="replace")
        found = _FINGERPRINT.search(said)
        return found[0] if found else "unknown"


def host_name(hostname: str, port: int) -> str:
    """Return what a machine is called among the known hosts."""
    return hostname if port == _SSH_PORT else f"[{hostname}]:{port}"


def _rank(line: str) -> int:
    return next((at for at, kind in enumerate(_KINDS) if f" {kind} " in line), len(_KINDS))


def _keygen(*arguments: str, given: bytes = b"") -> Answer:
    return run(["ssh-keygen", *arguments], timeout=_TIMEOUT, given=given)
