"""A project's files on a machine of one's own: the first run, and one after a file has changed.

On a host with a real sshd and Docker Engine (`tests/hosts/bed.py`), beside what travels whole:
`tar | ssh docker run tar`. Run by `make bench`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter

from benchmarks.bench_ssh import Ssh
from benchmarks.table import Line, medians, print_table
from dstack_engine.files.blobs import BlobStore
from dstack_engine.files.stored import StoredFiles
from dstack_engine.files.tree import scan_project
from dstack_engine.files.uploads import upload_tree
from dstack_engine.home import Home
from dstack_engine.hosts.base import ContainerSpec
from dstack_engine.hosts.remote import RemoteMachines
from dstack_engine.hosts.remote_host import RemoteDockerHost
from tests.contracts.hosts import a_machine
from tests.hosts import images
from tests.hosts.bed import Bed

#: What a run may wait for its files when one has changed, in seconds.
BAR = 1.5
#: The project: so many files of so many bytes.
FILES, SIZE = 1900, 256 << 10
ROUNDS = 5


def measure() -> Iterator[Line]:
    """Yield the lines of the table."""
    with Bed(1) as bed, tempfile.TemporaryDirectory(prefix="bench-files-") as folder:
        bed.load_image(images.python())
        project = Project(Path(folder))
        with project.machine(bed) as host, Ssh(bed.hosts[0], bed) as ssh:
            yield Line(
                f"first start with {FILES * SIZE >> 20} MB of files on a machine by SSH",
                project.start(host),
                "s",
                bar="",
            )
            ours, peer = medians(
                lambda: project.change_and_start(host),
                lambda: project.send_whole(ssh),
                rounds=ROUNDS,
            )
            yield Line(
                "start with them, one changed",
                ours,
                "s",
                bar=f"≤ {BAR} s",
                kept=ours <= BAR,
                peer=peer,
                peer_name="tar | ssh docker run tar",
            )


class Project:
    """Many files below *folder*, and an engine's store of them."""

    def __init__(self, folder: Path) -> None:
        self._home = Home(folder / "home").make()
        self._store = BlobStore(self._home)
        self._root = folder / "project"
        self._root.mkdir()
        self._numbers = count()
        for number in range(FILES):
            (self._root / str(number)).write_bytes(os.urandom(SIZE))
        self._kept = self._keep()

    @contextmanager
    def machine(self, bed: Bed) -> Iterator[RemoteDockerHost]:
        """Yield the host on the bed's first machine."""
        machines, instance = RemoteMachines(self._home), a_machine(bed.hosts[0].target())
        assert machines.examine(instance).usable
        try:
            yield machines.host(instance)
        finally:
            machines.release(instance)

    def change_and_start(self, host: RemoteDockerHost) -> float:
        """Change a file; return how long a container with the files then takes to be started."""
        (self._root / "0").write_bytes(os.urandom(SIZE))
        self._kept = self._keep()
        return self.start(host)

    def start(self, host: RemoteDockerHost) -> float:
        """Return how long a container with the files takes to be started."""
        name = f"bench-{next(self._numbers)}"
        spec = ContainerSpec(name, {}, "true", image=images.python().name)
        begun = perf_counter()
        host.start(spec, self._kept, self._home.logs / name)
        took = perf_counter() - begun
        host.attend(name, self._home.logs / name)
        host.remove(name)
        return took

    def send_whole(self, ssh: Ssh) -> float:
        """Return how long the bare tools take."""
        run = f"docker run --rm -i {images.python().name} tar -x -C /tmp"
        begun = perf_counter()
        with subprocess.Popen(["tar", "-c", "."], cwd=self._root, stdout=subprocess.PIPE) as tar:
            subprocess.run([*ssh.command(), run], stdin=tar.stdout, check=True)
        return perf_counter() - begun

    def _keep(self) -> StoredFiles:
        return self._store.files(upload_tree(scan_project(self._root), self._store).digest)


if __name__ == "__main__":
    print_table(measure())
