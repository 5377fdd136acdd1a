"""Images on their way to a Docker Engine; one of this computer's to a machine reached by SSH.

For a machine that cannot pull: it has no way to the registry, or the image was built here and is in
none. Called by the host on that machine when a pull has failed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any, BinaryIO
from urllib.parse import quote

from dstack_engine.hosts import docker_wire
from dstack_engine.hosts.base import ProgressSink
from dstack_engine.hosts.docker_errors import CONNECTION_ERRORS, translated
from dstack_engine.hosts.docker_images import TELL_EVERY

logger = logging.getLogger(__name__)

#: Seconds for a short answer of either engine.
TIMEOUT = 10.0

#: How `/info` calls the processors that images know by another name.
_PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def send_image(source: str, target: str, image: str, progress: ProgressSink) -> bool:
    """Send *image* from the engine at *source* to that at *target*; tell whether it is there now.

    False, and nothing sent, when *source* has no such image or has it for another processor.
    Raises what `hosts.base.Host.prepare` raises, for *target*.
    """
    found = _at_source(source, image)
    if found is None:
        return False
    with translated(target, f"send {image} there"):
        if found.get("Architecture") != _processor(target):
            return False
        sending = Sending("image", int(found.get("Size") or 0), progress)
        path = f"/images/{quote(image)}/get"

        def write(archive: BinaryIO) -> None:
            for chunk in docker_wire.stream(source, path):
                archive.write(chunk)
                sending.note(len(chunk))

        logger.info("%s is sent to %s: it cannot be pulled there", image, target)
        docker_wire.load_images(target, write)
        progress("sent", 1.0, sending.text)
        return _inspect(target, image) is not None


class Sending:
    """How much of *what*, which has *size* bytes, has been sent; told now and then."""

    def __init__(self, what: str, size: int, progress: ProgressSink) -> None:
        self._what = what
        self._size = size
        self._progress = progress
        self._sent = 0
        self._told = 0.0

    @property
    def text(self) -> str:
        """Return ``image: 1.2/3.4 GB``; 1 GB is 1024 MB."""
        whole = max(self._size, self._sent)
        unit, factor = ("GB", 1 << 30) if whole >= 1 << 30 else ("MB", 1 << 20)
        return f"{self._what}: {self._sent / factor:.1f}/{whole / factor:.1f} {unit}"

    def note(self, count: int) -> None:
        """Count *count* bytes more."""
        self._sent += count
        if monotonic() - self._told >= TELL_EVERY:
            self._told = monotonic()
            # What the engine does with it after the last byte is not told.
            fraction = min(self._sent / self._size, 0.99) if self._size else None
            self._progress("sending", fraction, self.text)


def _at_source(source: str, image: str) -> Mapping[str, Any] | None:
    try:
        return _inspect(source, image)
    except (*CONNECTION_ERRORS, ValueError):
        return None  # there may be no Docker Engine on this computer


def _inspect(url: str, image: str) -> Mapping[str, Any] | None:
    said = docker_wire.ask(url, f"/images/{quote(image)}/json", TIMEOUT)
    return None if said is None else dict(json.loads(said))


def _processor(url: str) -> str:
    info = json.loads(docker_wire.ask(url, "/info", TIMEOUT) or b"{}")
    told = str(info.get("Architecture", ""))
    return _PROCESSORS.get(told, told)
