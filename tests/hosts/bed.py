"""A bed of hosts: machines of one's own on this computer, each with a real sshd and Docker Engine.

Tests of fleets stand on it. A host is up within about a second; nothing of it reaches beyond this
computer. Every bed has a number, held by a lock on a file, so that many test processes have beds
at a time and what a killed one has left is cleared by the next. Needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from docker.errors import DockerException

from tests.hosts.bed_cgroups import Cgroups
from tests.hosts.bed_host import BedHost
from tests.hosts.bed_network import Network
from tests.hosts.commands import NoGround, output, set_up
from tests.hosts.engines import machine_engine
from tests.hosts.images import Image

#: Short, since a socket's path may have 107 characters; each bed has its number behind it.
FOLDER = "/tmp/djb"
BEDS = 32


class Bed:
    """So many hosts; ``with Bed(3) as bed: bed.hosts[0].cut()``.

    *disk_mb* is a bound: the disks are in memory and take what they hold. *shown* are folders of
    this computer that lie in its `/tmp`, `/home` or `/root`, which hosts have of their own, and
    are to be seen there nevertheless; read only.
    """

    def __init__(self, count: int = 3, *, disk_mb: int = 20480, shown: Iterable[Path] = ()) -> None:
        if os.geteuid() != 0:
            raise NoGround("needs root: hosts in namespaces of their own")
        set_up("hosts")
        _clear_leftovers()
        self._number, self._lock = _take_number()
        self._folder = Path(f"{FOLDER}{self._number}")
        self._network = Network(self._number)
        self._names = [f"h{index}" for index in range(1, count + 1)]
        _clear(self._number)
        self._folder.mkdir(mode=0o700)
        self.identity_file = self._folder / "id"
        self.hosts = [
            BedHost(index, self._network, self._folder, disk_mb=disk_mb, shown=tuple(shown))
            for index in range(1, count + 1)
        ]

    def __enter__(self) -> Bed:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def own_address(self) -> str:
        """This computer's address in the bed's network."""
        return self._network.own_address

    def start(self) -> None:
        """Switch all hosts on; returns once each answers by SSH and has its Docker Engine.

        Raises `NoGround`, and leaves nothing then, where this computer cannot bear hosts.
        """
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bed", "-f"]
        try:
            output([*key, str(self.identity_file)])
            self._network.make()
            self._all(BedHost.start)
            self._all(BedHost.wait_until_up)
        except BaseException:
            self.close()
            raise

    def load_image(self, image: Image | str) -> str:
        """Have *image* on every host, a name as this computer's Docker Engine has it; return it."""
        if isinstance(image, Image):
            self._all(lambda host: image.ensure(host.docker))
            return image.name
        saved = self._folder / "image.tar"
        with saved.open("wb") as file:
            file.writelines(machine_engine().client.images.get(image).save(named=True))
        self._all(lambda host: _load(host, saved))
        saved.unlink()
        return image

    def containers(self, *, running: bool = False) -> dict[str, list[str]]:
        """Return the names of the containers on every host whose power is on."""
        hosts = [host for host in self.hosts if host.running]
        return {host.name: host.containers(running=running) for host in hosts}

    def mend(self) -> None:
        """Undo what was done to the hosts and empty them, images excepted; all are up on return."""
        self._all(BedHost.mend)

    def close(self) -> None:
        """End the hosts and take away everything of the bed."""
        with contextlib.suppress(DockerException, OSError):
            self._all(BedHost.destroy)
        _clear(self._number)
        self._lock.close()

    def _all(self, verb: Callable[[BedHost], object]) -> None:
        with ThreadPoolExecutor(len(self.hosts) or 1) as threads:
            list(threads.map(verb, self.hosts))


def _load(host: BedHost, saved: Path) -> None:
    with saved.open("rb") as file:
        host.docker.images.load(file)


def _take_number() -> tuple[int, IO[bytes]]:
    """Return the first number that no living process holds, and the lock on it."""
    for number in range(BEDS):
        lock = _lock(number)
        if lock is not None:
            return number, lock
    raise NoGround(f"{BEDS} beds of hosts are in use on this computer")


def _lock(number: int) -> IO[bytes] | None:
    """Return the lock on bed *number*, held until it is closed; None where somebody has it."""
    lock = Path(f"{FOLDER}{number}.lock").open("wb")  # noqa: SIM115  held while the bed is
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _clear_leftovers() -> None:
    """Take away the beds of processes that were killed."""
    for number in range(BEDS):
        if Path(f"{FOLDER}{number}").exists():
            lock = _lock(number)
            if lock is not None:
                _clear(number)
                lock.close()


def _clear(number: int) -> None:
    """Take away what there is of bed *number*: processes, namespaces, mounts, groups, files."""
    folder = Path(f"{FOLDER}{number}")
    network = Network(number)
    for host in _hosts_in(folder):
        with contextlib.suppress(OSError):
            Cgroups(network.namespace(host)).freeze(False)
    network.destroy()
    for host in _hosts_in(folder):
        Cgroups(network.namespace(host)).destroy()
        disk = folder / host / "disk"
        subprocess.run(["umount", "--lazy", disk], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def _hosts_in(folder: Path) -> Sequence[str]:
    return [path.name for path in folder.glob("h[0-9]*") if path.is_dir()]
