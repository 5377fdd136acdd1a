"""The image with torch that runs of several nodes train in: the Python image, and packages more.

torch itself comes from the interpreter that `scripts/setup-extras.sh` makes, without what only
builds need; so nothing is pulled, and its half a gigabyte is written once.
"""

from __future__ import annotations

import sysconfig
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path

import docker
from docker.errors import ImageNotFound

from tests.hosts import packages
from tests.hosts.images import KEY_LABEL, locked

NAME = "dstack-test/torch:1"

#: torch, and what it imports.
_PACKAGES = (
    "filelock",
    "fsspec",
    "jinja2",
    "markupsafe",
    "mpmath",
    "networkx",
    "numpy",
    "numpy.libs",
    "sympy",
    "torch",
    "torchgen",
    "typing_extensions.py",
)
#: Parts of torch for those who build with it.
_UNNEEDED = ("torch/bin/protoc", "torch/include/", "torch/test/", "torch/share/")
_PLACE = "usr/lib/python3/dist-packages"


def ensure(client: docker.DockerClient, base: str, python: Path) -> str:
    """Have the image in the engine behind *client*; return its name.

    *base* is the image with Python there, *python* the interpreter whose packages are taken; both
    of one version.
    """
    recipe = sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    key = f"{base} {_version_of(python)} {recipe}"
    with locked("torch-image"):
        if _label(client) != key:
            _make(client, base, python, key)
    return NAME


def _label(client: docker.DockerClient) -> str | None:
    try:
        return str(client.images.get(NAME).labels.get(KEY_LABEL))
    except ImageNotFound:
        return None


def _make(client: docker.DockerClient, base: str, python: Path, key: str) -> None:
    container = client.containers.create(base, ["true"])
    try:
        with tempfile.TemporaryDirectory(prefix="dstack-test-torch-") as folder:
            whole = Path(folder, "packages.tar")
            _pack(python, Path(folder), whole)
            with whole.open("rb") as contents:
                container.put_archive("/", contents)
        repository, tag = NAME.split(":")
        container.commit(repository, tag, conf={"Labels": {KEY_LABEL: key}, "Cmd": ["sh"]})
    finally:
        container.remove(force=True)


def _pack(python: Path, folder: Path, whole: Path) -> None:
    libraries = folder / "libraries"
    packages.unpack(["libstdc++6", "libgcc-s1"], libraries, folder / "downloads")
    with tarfile.open(whole, "w") as archive:
        for name in _PACKAGES:
            found = _packages_of(python) / name
            if found.exists():
                archive.add(found, f"{_PLACE}/{name}", filter=_kept)
        for library in sorted(libraries.glob("**/*.so.*")):
            archive.add(library, str(library.relative_to(libraries)))


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    path = entry.name.removeprefix(f"{_PLACE}/")
    if path.startswith(_UNNEEDED) or "__pycache__" in path:
        return None
    entry.uid = entry.gid = 0
    return entry


def _packages_of(python: Path) -> Path:
    return next((python.parent.parent / "lib").glob("python3.*/site-packages"))


def _version_of(python: Path) -> str:
    folder = next(_packages_of(python).glob("torch-*.dist-info"))
    return f"{folder.name} for {sysconfig.get_platform()}"
