"""SSH servers on loopback: OpenSSH's own, each with its own port, host key and list of keys."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from dstack_engine.records.machines import SshTarget
from tests.hosts.commands import NoGround, output
from tests.hosts.engines import wait_for


def sshd_program() -> str:
    """Return sshd's absolute path, which it wants to be started by."""
    found = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        raise NoGround("no sshd is installed; see scripts/setup-hosts.sh")
    return found


def make_key(path: Path, passphrase: str = "") -> Path:
    """Make a key pair at *path*; return the private key's path."""
    path.unlink(missing_ok=True)
    output(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", path.name, "-f", path])
    return path


def fingerprint(key: Path) -> str:
    """Return a key's fingerprint, as ``ssh-keygen -l`` prints it."""
    return output(["ssh-keygen", "-l", "-f", key]).split()[1]


class SshServer:
    """One sshd on a port of loopback that lets this user in by the keys it was given.

    *options* are lines of its configuration that go before ours.
    """

    def __init__(self, folder: Path, *, options: str = "", hostname: str = "127.0.0.1") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.hostname = hostname
        self.port = _free_port()
        self.key = make_key(folder / "client")
        self.host_key = make_key(folder / "host")
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.admit(self.key)

    @property
    def target(self) -> SshTarget:
        """How it is reached, by its own key."""
        return SshTarget(self.hostname, self.port, output(["id", "-un"]).strip(), str(self.key))

    def admit(self, *keys: Path) -> None:
        """Let those in who have one of *keys*, and nobody else."""
        text = "".join(Path(f"{key}.pub").read_text() for key in keys)
        (self.folder / "authorized_keys").write_text(text)

    def start(self) -> SshServer:
        """Start it; return it once it takes connections."""
        Path("/run/sshd").mkdir(exist_ok=True)
        (self.folder / "config").write_text(self._configuration())
        command = [sshd_program(), "-D", "-f", self.folder / "config", "-E", self.folder / "log"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        wait_for(self._listens, f"the SSH server on port {self.port}", 30)
        return self

    def _configuration(self) -> str:
        return (
            f"{self._options}\n"
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {self.host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        )

    def _listens(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise NoGround(f"sshd ended: {(self.folder / 'log').read_text()[-500:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def change_host_key(self) -> None:
        """Be another machine at the same address."""
        self.stop()
        self.host_key = make_key(self.host_key)
        self.start()

    def sessions(self) -> list[int]:
        """Return the processes that serve connections, the server itself left out."""
        assert self.process is not None
        return _descendants(self.process.pid)

    def signal_sessions(self, number: signal.Signals) -> None:
        """Freeze, thaw or kill all connections."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End it and all connections to it."""
        if self.process is None:
            return
        self.signal_sessions(signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.process = None


class Agent:
    """An ssh-agent of a test's own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "agent"
        self._process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", self.socket], stdout=subprocess.DEVNULL
        )
        wait_for(self.socket.exists, "the agent", 10)

    def add(self, key: Path) -> None:
        """Give it a key that has no passphrase."""
        environment = {**os.environ, "SSH_AUTH_SOCK": str(self.socket)}
        subprocess.run(["ssh-add", "-q", key], env=environment, check=True)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [int(child) for child in children]
    return found + [each for child in found for each in _descendants(child)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def seconds_until(is_so: Callable[[], bool], patience: float = 20.0) -> float:
    """Wait until *is_so*; return how long that took."""
    began = time.monotonic()
    wait_for(is_so, "it", patience)
    return time.monotonic() - began
