"""The engine's home: one folder per user that holds everything the engine knows.

`~/.dstack-jupyter`, or what `DSTACK_JUPYTER_HOME` names. Clients read `engine.json` from it, the
engine writes the rest. Everything in it is the user's alone (folders 0700, files 0600).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "DSTACK_JUPYTER_HOME"


@dataclass(frozen=True)
class Home:
    """Where things lie."""

    root: Path

    @classmethod
    def of_user(cls) -> Home:
        """Return the home that this process's environment names."""
        given = os.environ.get(HOME_VARIABLE)
        return cls(
            Path(given).expanduser().absolute() if given else Path.home() / ".dstack-jupyter"
        )

    def make(self) -> Home:
        """Create the folders; return self."""
        for folder in (
            self.root,
            self.logs,
            self.files,
            self.jobs,
            self.cache,
            self.gateway,
            self.ssh,
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    @property
    def id(self) -> str:
        """Return what tells this home from others, on machines that several use."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:16]

    @property
    def config(self) -> Path:
        """Return the user's settings, `config.yml`."""
        return self.root / "config.yml"

    @property
    def engine_file(self) -> Path:
        """Return the file that tells clients the running engine's port and token (0600)."""
        return self.root / "engine.json"

    @property
    def engine_lock(self) -> Path:
        """Return the file that the one living engine holds locked."""
        return self.root / "engine.lock"

    @property
    def engine_log(self) -> Path:
        """Return the file that the engine's own log goes to."""
        return self.root / "engine.log"

    @property
    def token(self) -> Path:
        """Return the file with the user's token for services and models (0600)."""
        return self.root / "token"

    @property
    def gateway(self) -> Path:
        """Return the folder of the gateway: what was published, its socket, its log."""
        return self.root / "gateway"

    @property
    def ssh(self) -> Path:
        """Return the folder of what belongs to machines reached by SSH: keys pinned, sockets."""
        return self.root / "ssh"

    @property
    def database(self) -> Path:
        """Return the SQLite file."""
        return self.root / "engine.db"

    @property
    def logs(self) -> Path:
        """Return the folder with one folder per job: its output."""
        return self.root / "logs"

    @property
    def files(self) -> Path:
        """Return the folder of the content-addressed project files."""
        return self.root / "files"

    @property
    def jobs(self) -> Path:
        """Return the folder in which process-host jobs live."""
        return self.root / "jobs"

    @property
    def cache(self) -> Path:
        """Return the folder of what can be made anew: hashes, interpreters."""
        return self.root / "cache"


def write_private(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file that its user alone can read (0600), whole or not at all. Raises `OSError`.

    *durable*: also where the computer goes down in the next moment.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")  # several processes may write at once
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
