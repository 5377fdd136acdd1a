"""What lies on the disk of a bed's host before it boots first: its users, its settings, its init.

The disk is in memory, lies over this computer's root and outlives the host's power. Used by
`tests.hosts.bed_host`; needs root.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.hosts.commands import output

SCRIPTS = Path(__file__).parent / "bed"

#: Users besides root: ann may use the Docker Engine, bob may not.
USERS = {"ann": 2001, "bob": 2002}

SSHD = """\
HostKey /etc/bed/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
Subsystem sftp internal-sftp
"""


class Disk:
    """The disk in *folder*, which holds *megabytes* at most and takes only what lies on it."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        #: What the host changed of this computer's root.
        self.root = folder / "upper"
        self._megabytes = megabytes

    def make(self, name: str, address: str, public_key: Path) -> None:
        """Lay out what host *name* at *address* needs, who is let in with *public_key*."""
        self.folder.mkdir(parents=True)
        size = f"size={self._megabytes}m,mode=755"
        output(["mount", "-t", "tmpfs", "-o", size, "djb", str(self.folder)])
        for place in ("upper", "work", "home", "root", "var/lib/docker"):
            (self.folder / place).mkdir(parents=True)
        self._add_users(public_key.read_text())
        write(self.root, "/etc/hostname", f"{name}\n")
        write(self.root, "/etc/hosts", f"127.0.0.1 localhost\n{address} {name}\n")
        write(self.root, "/etc/resolv.conf", "")
        write(self.root, "/etc/bed/init.sh", (SCRIPTS / "init.sh").read_text())
        write(self.root, "/etc/bed/sshd_config", SSHD)

    def _add_users(self, key: str) -> None:
        """Let root, ann and bob log in with *key*; ann is of the group docker."""
        tables = {name: Path("/etc", name).read_text() for name in ("passwd", "group", "shadow")}
        if "\ndocker:" not in tables["group"]:
            tables["group"] += "docker:x:2999:\n"
        groups = [
            f"{line.rstrip(':')}:ann" if line.startswith("docker:") else line
            for line in tables["group"].splitlines()
        ]
        tables["group"] = "\n".join(groups) + "\n"
        for user, number in USERS.items():
            tables["passwd"] += f"{user}:x:{number}:{number}::/home/{user}:/bin/bash\n"
            tables["group"] += f"{user}:x:{number}:\n"
            tables["shadow"] += f"{user}:*:20000:0:99999:7:::\n"
            _let_in(self.folder / "home" / user, number, key)
        for name, text in tables.items():
            write(self.root, f"/etc/{name}", text, 0o600 if name == "shadow" else 0o644)
        _let_in(self.folder / "root", 0, key)

    def fill(self, leave_mb: int) -> None:
        """Make it as small as what lies on it and *leave_mb*: nothing is spent for it."""
        used = shutil.disk_usage(self.folder).used >> 10
        self._resize(f"{used + 4 + (leave_mb << 10)}k")

    def free(self) -> None:
        """Give it its size again."""
        self._resize(f"{self._megabytes}m")

    def _resize(self, size: str) -> None:
        output(["mount", "-o", f"remount,size={size}", str(self.folder)])


def write(root: Path, path: str, content: str, mode: int = 0o644) -> None:
    """Write a file below *root*; *path* is absolute. One that is there is replaced whole."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(content)
    file.chmod(mode)


def _let_in(home: Path, number: int, key: str) -> None:
    keys = home / ".ssh/authorized_keys"
    keys.parent.mkdir(parents=True, mode=0o700)
    keys.write_text(key)
    for path in (home, keys.parent, keys):
        os.chown(path, number, number)
        path.chmod(0o600 if path == keys else 0o700)
