"""Project files as layers over a job's image, so that only what has changed travels.

A container's files are commonly sent to the Docker Engine as one tar. To a machine far away that
takes long, so there a job's image is given the files as a layer: the engine keeps it, and the next
run sends one more layer with what is different. No program runs for it on the machine or in the
image, nothing is copied there, and the user's image stays as it is. Called by the Docker host's
`start`, on machines reached by SSH.

What cannot be done so is done as before: by an engine that keeps its images in containerd's store,
which takes no layers by name; for a container with a user of its own; for a few files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import RawIOBase
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import quote

from docker.errors import APIError

from dstack_engine.errors import DiskFull
from dstack_engine.hosts import docker_wire
from dstack_engine.hosts.base import ContainerSpec, Files, Layer, ProgressSink, TellsChanges
from dstack_engine.hosts.docker_containers import WORKFLOW
from dstack_engine.hosts.docker_errors import explanation, host_error, translated
from dstack_engine.hosts.docker_transfer import Sending

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

logger = logging.getLogger(__name__)

#: Projects smaller than this, in bytes, are sent whole: a layer takes the engine 0.2 s.
SMALLEST = 2 << 20
#: So many different beginnings are kept on a machine; each may be as large as a project.
KEPT_BASES = 3
#: A layer of changes larger than this part of the whole is not worth it: a new beginning is made.
LARGEST_CHANGE = 0.5
#: An image that was made so recently may be about to be used.
GRACE = timedelta(minutes=10)

REPOSITORY = "dstack-jupyter-files"
#: Labels of the images: the home, the image below, the tree that is the beginning, its layer's id.
HOME, BELOW, BASE, BASE_LAYER = (
    f"dstack-jupyter.files.{n}" for n in ("home", "image", "base", "id")
)

_FOLDER = WORKFLOW.lstrip("/")
_TIMEOUT = 20.0


@dataclass(frozen=True)
class Beginning:
    """A layer of all files of one tree that the engine has over an image."""

    tree: str
    layer: str


def _nobody(step: str, fraction: float | None, text: str) -> None:
    """Tell nobody."""


class LayeredImages:
    """The images with files at the engine *url*, for the engine's *home*. For many threads."""

    def __init__(self, url: str, home: str) -> None:
        self._url = url
        self._home = home
        #: Whether the engine takes layers by name; None as long as it was not asked.
        self._able: bool | None = None
        #: Who sends the same files at the same time waits, and finds them there.
        self._sending = threading.Lock()

    def image_with(
        self, spec: ContainerSpec, files: Files | None, progress: ProgressSink = _nobody
    ) -> str | None:
        """Return the name of an image that is *spec*'s with *files* in it; it is made if need be.

        None where the files are better sent by themselves. Raises what a lost connection raises.
        """
        if spec.image is None or spec.user is not None or not isinstance(files, TellsChanges):
            return None
        if files.size < SMALLEST or not self._takes_layers():
            return None
        below = self._inspect(spec.image)
        if below is None:
            return None
        name = self._name(str(below["Id"]), files.digest)
        with self._sending:
            if self._inspect(name) is None and not self._make(name, below, files, progress):
                return None
        return name

    def remove_all(self) -> None:
        """Take away all images of this home that no container uses. Raises `HostUnreachable`."""
        with translated(self._url, "remove the images with files"):
            for image in self._images():
                self._remove(image)

    def _takes_layers(self) -> bool:
        if self._able is None:
            info = json.loads(docker_wire.ask(self._url, "/info", _TIMEOUT) or b"{}")
            status = str(info.get("DriverStatus"))
            self._able = "io.containerd.snapshotter" not in status
        return self._able

    def _name(self, image: str, tree: str) -> str:
        named = hashlib.sha256(f"{self._home} {image} {tree}".encode()).hexdigest()
        return f"{REPOSITORY}:{named[:32]}"

    def _make(
        self, name: str, below: Mapping[str, Any], files: TellsChanges, progress: ProgressSink
    ) -> bool:
        """Make the image; return whether it could be made."""
        labels = {HOME: self._home, BELOW: str(below["Id"])}
        for beginning, layer in self._ways(str(below["Id"]), files):
            sending = Sending("files", layer.size, progress)
            loading = Loading(name, below, layer, beginning, files.digest, labels, sending.note)
            try:
                docker_wire.load_images(self._url, loading.write)
            except APIError as error:
                if isinstance(full := host_error(explanation(error), "keep the files"), DiskFull):
                    raise full from error
                logger.warning("a layer is refused by %s: %s", self._url, explanation(error))
                self._able = beginning is not None
            else:
                self._tidy()
                return True
        return False

    def _ways(self, below: str, files: TellsChanges) -> Iterator[tuple[Beginning | None, Layer]]:
        """Yield what may be sent, and over which beginning: what has changed first, then all."""
        whole = files.layer(_FOLDER)
        if whole is None:
            return
        changes = (
            (beginning, change)
            for beginning in self._beginnings(below)
            if (change := files.layer(_FOLDER, since=beginning.tree)) is not None
            and change.size <= whole.size * LARGEST_CHANGE
        )
        if least := min(changes, key=lambda each: each[1].size, default=None):
            yield least
        yield None, whole

    def _beginnings(self, below: str) -> list[Beginning]:
        found: dict[Beginning, None] = {}
        for image in self._images():
            labels = image["Labels"]
            if labels.get(BELOW) == below:
                found[Beginning(labels.get(BASE, ""), labels.get(BASE_LAYER, ""))] = None
        return list(found)

    def _tidy(self) -> None:
        """Remove what was followed by newer files, but for what containers use."""
        kept: dict[tuple[str, str], None] = {}
        for image in self._images():
            labels = image["Labels"]
            place = (str(labels.get(BELOW)), str(labels.get(BASE)))
            made = datetime.fromtimestamp(int(image["Created"]), timezone.utc)
            is_new = datetime.now(timezone.utc) - made < GRACE
            if is_new or (place not in kept and len(kept) < KEPT_BASES):
                kept[place] = None
            else:
                self._remove(image)

    def _images(self) -> list[Mapping[str, Any]]:
        """Return the images of this home, the newest first."""
        filters = quote(json.dumps({"label": [f"{HOME}={self._home}"]}))
        said = docker_wire.ask(self._url, f"/images/json?filters={filters}", _TIMEOUT)
        return sorted(json.loads(said or b"[]"), key=lambda image: -int(image["Created"]))

    def _inspect(self, image: str) -> Mapping[str, Any] | None:
        said = docker_wire.ask(self._url, f"/images/{quote(image)}/json", _TIMEOUT)
        return None if said is None else dict(json.loads(said))

    def _remove(self, image: Mapping[str, Any]) -> None:
        """Remove an image; the engine refuses while a container uses it."""
        for name in image.get("RepoTags") or [image["Id"]]:
            docker_wire.call(self._url, "DELETE", f"/images/{quote(name)}", timeout=_TIMEOUT)


@dataclass(frozen=True)
class Loading:
    """An image on its way to an engine that has all its layers but *layer*.

    That is what has changed since *beginning*, or, without one, is a beginning itself: of *tree*.
    """

    name: str
    below: Mapping[str, Any]
    layer: Layer
    beginning: Beginning | None
    tree: str
    labels: Mapping[str, str]
    #: Told how many bytes of the layer were sent.
    note: Callable[[int], None]

    def write(self, target: BinaryIO) -> None:
        """Write the archive that ``docker load`` takes; layers that the engine has are left out."""
        there = [*self.below["RootFS"]["Layers"]]
        there += [self.beginning.layer] if self.beginning else []
        target.write(_header(f"{len(there)}.tar", self.layer.size))
        passed = Hashing(target, self.note)
        self.layer.write_tar(cast(BinaryIO, passed))
        target.write(bytes(-passed.count % tarfile.BLOCKSIZE))
        layers = [*there, passed.digest]
        _write_json(target, "config.json", self._config(layers, passed.digest))
        files = [f"{number}.tar" for number in range(len(layers))]
        manifest = {"Config": "config.json", "RepoTags": [self.name], "Layers": files}
        _write_json(target, "manifest.json", [manifest])
        target.write(bytes(2 * tarfile.BLOCKSIZE))

    def _config(self, layers: Sequence[str], sent: str) -> dict[str, Any]:
        beginning = self.beginning or Beginning(self.tree, sent)
        labels = {**self.labels, BASE: beginning.tree, BASE_LAYER: beginning.layer}
        config = dict(self.below.get("Config") or {})
        config["Labels"] = {**(config.get("Labels") or {}), **labels}
        return {
            "created": datetime.now(timezone.utc).isoformat(),
            "architecture": self.below.get("Architecture", ""),
            "variant": self.below.get("Variant", ""),
            "os": self.below.get("Os", "linux"),
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": list(layers)},
        }


class Hashing(RawIOBase):
    """Passes what is written on to *target*, takes its SHA-256 and tells *note* how much it was."""

    def __init__(self, target: BinaryIO, note: Callable[[int], None]) -> None:
        self._target = target
        self._note = note
        self._sha = hashlib.sha256()
        self.count = 0

    @property
    def digest(self) -> str:
        """Return the digest of what was written, as images name it."""
        return f"sha256:{self._sha.hexdigest()}"

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data)
        self._sha.update(view)
        self.count += view.nbytes
        self._target.write(view)
        self._note(view.nbytes)
        return view.nbytes


def _header(name: str, size: int) -> bytes:
    head = tarfile.TarInfo(name)
    head.size = size
    return head.tobuf(tarfile.GNU_FORMAT)


def _write_json(target: BinaryIO, name: str, content: object) -> None:
    body = json.dumps(content).encode()
    target.write(_header(name, len(body)) + body + bytes(-len(body) % tarfile.BLOCKSIZE))
