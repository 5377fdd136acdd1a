"""The images that tests run: made here from the distribution's own packages, never pulled.

``busybox`` is 2 MB with `sh` only; ``python`` has bash, coreutils and the distribution's Python.
Each is built once, kept as a tar under the cache folder and loaded into any engine in a moment.
Called by the fixtures beside this module, and by hand: ``python -m tests.hosts.images``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import docker
from docker.errors import ImageNotFound

from tests.hosts import packages
from tests.hosts.commands import output

KEY_LABEL = "dstack-test.key"
CACHE = Path(os.environ.get("DSTACK_TEST_CACHE", "~/.cache/dstack-jupyter-tests")).expanduser()

#: What the python image is asked to hold; apt adds what these need.
PYTHON_PACKAGES = (
    "bash",
    "coreutils",
    "debianutils",
    "findutils",
    "grep",
    "gzip",
    "procps",
    "python3",
    "sed",
    "tar",
    "util-linux",
)
#: What apt adds for installing packages inside a system, which nobody does in a test image.
UNNEEDED = re.compile(r"perl|usrmerge|dpkg|debconf|gcc-\d+-base|init-system-helpers|libgdbm|libmd0")
#: Parts of packages that only readers need.
UNREAD = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/perl5",
)


@dataclass(frozen=True)
class Image:
    """One image the tests use: its name, and how its root file system is made."""

    name: str
    build: Callable[[Path, Path], None]
    #: makes the image anew when it changes
    key: str
    path: str
    #: run once inside the new image, its effect is kept
    finish: tuple[str, ...] = ()

    @property
    def tar(self) -> Path:
        """Where the image waits between runs, as `docker save` wrote it."""
        return CACHE / f"{self.name.partition('/')[2].replace(':', '-')}-{self.key}.tar"

    def ensure(self, client: docker.DockerClient) -> str:
        """Have the image in the engine behind *client*; return its name. Quick when it is there."""
        if self._present(client):
            return self.name
        with locked(f"image-{self.key}"):
            if not self.tar.exists():
                self._make(client)
        if not self._present(client):
            with self.tar.open("rb") as saved:
                client.images.load(saved)
        return self.name

    def _present(self, client: docker.DockerClient) -> bool:
        try:
            return bool(client.images.get(self.name).labels.get(KEY_LABEL) == self.key)
        except ImageNotFound:
            return False

    def _make(self, client: docker.DockerClient) -> None:
        """Build the root, import it, let it finish itself, and keep the result as a tar."""
        with tempfile.TemporaryDirectory(prefix="dstack-test-image-") as folder:
            root = Path(folder, "root")
            self.build(root, Path(folder, "downloads"))
            raw = Path(folder, "root.tar")
            with tarfile.open(raw, "w") as archive:
                archive.add(root, arcname=".", filter=_as_root)
            changes = [f"LABEL {KEY_LABEL}={self.key}", f"ENV PATH={self.path}", 'CMD ["sh"]']
            client.api.import_image_from_file(str(raw), *self.name.split(":"), changes=changes)
        if self.finish:
            self._run_finish(client)
        partial = self.tar.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as saved:
            saved.writelines(client.images.get(self.name).save(named=self.name))
        for outdated in CACHE.glob(f"{self.tar.stem.rpartition('-')[0]}-*.tar"):
            outdated.unlink()
        partial.replace(self.tar)

    def _run_finish(self, client: docker.DockerClient) -> None:
        """Run the finishing command in a container and flatten what it leaves into the image."""
        container = client.containers.run(
            self.name, list(self.finish), detach=True, network_mode="none"
        )
        try:
            if container.wait()["StatusCode"] != 0:
                raise RuntimeError(f"{self.name} could not finish: {container.logs()[-500:]!r}")
            container.commit(*self.name.split(":"), conf={"Cmd": ["sh"]})
        finally:
            container.remove(force=True)


def random_image(client: docker.DockerClient, name: str, megabytes: int) -> str:
    """Make an image of *megabytes* of incompressible bytes, to have something to wait for."""
    contents = BytesIO()
    with tarfile.open(fileobj=contents, mode="w") as archive:
        entry = tarfile.TarInfo("random")
        entry.size = megabytes << 20
        archive.addfile(entry, BytesIO(os.urandom(entry.size)))
    client.api.import_image_from_data(contents.getvalue(), *name.rsplit(":", 1))
    return name


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time, of all test workers on this machine, do what *name* says."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def busybox() -> Image:
    """Return the image of 2 MB: busybox and its names, `sh` and no bash."""
    version = packages.candidate_version("busybox-static")
    return Image("dstack-test/busybox:1", _build_busybox, _key(version), path="/bin")


def python() -> Image:
    """Return the image with the distribution's Python; its tag is the Python's version."""
    version = packages.candidate_version("python3")
    tag = ".".join(version.split(".")[:2])
    compile_all = ("python3", "-m", "compileall", "-q", "-j", "0", f"/usr/lib/python{tag}")
    return Image(
        f"dstack-test/python:{tag}",
        _build_python,
        _key(version),
        path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        finish=compile_all,
    )


def _build_busybox(root: Path, downloads: Path) -> None:
    unpacked = downloads / "unpacked"
    packages.unpack(["busybox-static"], unpacked, downloads)
    _lay_folders(root)
    (root / "bin").mkdir()
    binary = next(path for path in unpacked.glob("**/bin/busybox") if path.is_file())
    shutil.copy(binary, root / "bin/busybox")
    for name in output([binary, "--list"]).split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")


def _build_python(root: Path, downloads: Path) -> None:
    downloads.mkdir(parents=True)
    wanted = packages.with_dependencies(PYTHON_PACKAGES, downloads / "status")
    wanted = [name for name in wanted if not UNNEEDED.search(name)]
    _lay_folders(root)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    packages.unpack(wanted, root, downloads)
    for folder in (*(root / name for name in UNREAD), *root.glob("usr/lib/*/gconv")):
        shutil.rmtree(folder, ignore_errors=True)
    (root / "usr/bin/python").symlink_to("python3")
    (root / "usr/bin/which").symlink_to("which.debianutils")
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("bash")


def _lay_folders(root: Path) -> None:
    for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "var/tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _key(version: str) -> str:
    """Return what an image depends on, in twelve letters: its recipe, the packages, the machine."""
    recipe = Path(__file__).read_bytes() + Path(packages.__file__).read_bytes()
    facts = f"{version} {platform.machine()}".encode()
    return hashlib.sha256(recipe + facts).hexdigest()[:12]


if __name__ == "__main__":
    engine = docker.from_env()
    for image in (busybox(), python()):
        print(image.ensure(engine), file=sys.stdout)
