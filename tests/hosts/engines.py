"""Docker Engines for tests: the machine's own, and private ones that a test may break.

A private engine has its own socket, processes, bridge and a small disk in memory, so a test can
kill it, restart it or fill its disk while the machine's engine notices nothing. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import docker
from docker.errors import DockerException

from tests.hosts.commands import NoGround, output, set_up
from tests.hosts.images import Image

DEFAULT_HOST = "unix:///var/run/docker.sock"
PATIENCE = 60.0  # seconds; a private engine starts in about one, the rest is for a busy machine


@dataclass(frozen=True)
class Engine:
    """A Docker Engine that answers at *host* (``unix:///...``)."""

    host: str

    @cached_property
    def client(self) -> docker.DockerClient:
        """The docker SDK's client of this engine."""
        return docker.DockerClient(base_url=self.host, timeout=60)

    def answers(self) -> bool:
        """Tell whether the engine answers a ping now."""
        try:
            return bool(self.client.ping())
        except (DockerException, OSError):
            return False


def machine_engine() -> Engine:
    """Return this machine's engine, installed and started first where that is needed."""
    engine = Engine(os.environ.get("DOCKER_HOST", DEFAULT_HOST))
    if engine.host == DEFAULT_HOST:
        set_up("docker")
    if not engine.answers():
        raise NoGround(f"no Docker Engine answers at {engine.host}")
    return engine


class PrivateDockerd:
    """A Docker Engine of a test's own: ``start``, ``stop``, ``kill``, ``restart``, ``fill_disk``.

    *disk_mb* is the size of the memory disk under its data root. With *live_restore* its
    containers go on while it is away, as an administrator may set it.
    """

    def __init__(self, *, disk_mb: int = 512, live_restore: bool = False) -> None:
        # Short, since a socket's path may have 107 characters, and containerd's lies deep.
        self._folder = Path(tempfile.mkdtemp(prefix="djd-", dir="/tmp"))
        self._data = self._folder / "data"
        self._exec = self._folder / "exec"
        self._bridge = ""
        self._live_restore = live_restore
        self._process: subprocess.Popen[bytes] | None = None
        self._data.mkdir()
        output(["mount", "-t", "tmpfs", "-o", f"size={disk_mb}m", "djd", str(self._data)])
        self.engine = Engine(f"unix://{self._folder}/docker.sock")

    @property
    def host(self) -> str:
        """The engine's address, as ``DOCKER_HOST`` has it."""
        return self.engine.host

    @property
    def client(self) -> docker.DockerClient:
        """The docker SDK's client of this engine."""
        return self.engine.client

    @property
    def log(self) -> str:
        """What the daemon has written so far."""
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the daemon and return once it answers."""
        self._bridge = self._bridge or _make_bridge()
        (self._folder / "daemon.json").write_text("{}")
        command = ["dockerd", "--config-file", str(self._folder / "daemon.json")]
        command += ["--host", self.host, "--data-root", str(self._data)]
        command += ["--exec-root", str(self._exec), "--pidfile", str(self._folder / "pid")]
        command += ["--bridge", self._bridge, "--iptables=false", "--ip6tables=false"]
        command += ["--ip-masq=false", "--ip-forward=false", "--shutdown-timeout", "3"]
        command += ["--live-restore"] if self._live_restore else []
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
                start_new_session=True,
            )
        wait_for(self._answers, f"the private engine at {self.host}")

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise NoGround(f"the private engine ended:\n{self.log[-2000:]}")
        return self.engine.answers()

    def stop(self) -> None:
        """Ask the daemon to end, as an administrator does, and wait for it."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the daemon without a warning, and containerd with it; the containers stay behind."""
        self._signal(signal.SIGKILL)
        # Where pid 1 does not reap, the dead containerd stays a zombie, which the next daemon takes
        # for a living one as long as this file names it.
        (self._exec / "containerd/containerd.pid").unlink(missing_ok=True)

    def restart(self) -> None:
        """Stop and start, as an upgrade of the package does."""
        self.stop()
        self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        (self._folder / "pid").unlink(missing_ok=True)

    def load(self, image: Image) -> str:
        """Load one of the test images from its tar; return its name."""
        return image.ensure(self.client)

    @property
    def free_mb(self) -> int:
        """Free space of the data root, in MB."""
        return shutil.disk_usage(self._data).free >> 20

    def fill_disk(self, leave_mb: int = 0) -> None:
        """Take the data root's free space but *leave_mb*."""
        ballast = self._data / "ballast"
        size = max(0, shutil.disk_usage(self._data).free - (leave_mb << 20))
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size or 1)

    def free_disk(self) -> None:
        """Give back what `fill_disk` took."""
        (self._data / "ballast").unlink(missing_ok=True)

    def destroy(self) -> None:
        """End everything of this engine and take away its files, mounts and bridge."""
        self.kill()
        self.client.close()
        for pid in self._leftovers():
            _end(pid)
        for mount in _mounts_under(self._folder):
            subprocess.run(["umount", "-l", mount], check=False)
        if self._bridge:
            subprocess.run(["ip", "link", "delete", self._bridge], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _leftovers(self) -> list[int]:
        """Return containerd, its shims and what they run: all name this engine's own folder."""
        own = str(self._exec).encode()
        named = [pid for pid in _pids() if own in _cmdline(pid)]
        return named + [child for pid in named for child in _children(pid)]


def wait_for(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Return once *condition* holds; raise `TimeoutError` after *patience* seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {patience:.0f} s for {what}")
        time.sleep(0.05)


def _make_bridge() -> str:
    """Make a network bridge that nobody else has; return its name."""
    for number in range(1, 200):
        name = f"djd{number}"
        added = subprocess.run(
            ["ip", "link", "add", name, "type", "bridge"], capture_output=True, check=False
        )
        if added.returncode == 0:
            output(["ip", "address", "add", f"10.231.{number}.1/24", "dev", name])
            output(["ip", "link", "set", name, "up"])
            return name
        if b"exists" not in added.stderr:
            raise NoGround(f"cannot make a bridge: {added.stderr.decode().strip()}")
    raise NoGround("200 test bridges exist; remove those named djd*")


def _mounts_under(folder: Path) -> list[str]:
    """Return what is mounted under *folder*, the deepest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    mounts = [line.split()[1] for line in lines]
    return sorted((m for m in mounts if m.startswith(f"{folder}/")), key=len, reverse=True)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
