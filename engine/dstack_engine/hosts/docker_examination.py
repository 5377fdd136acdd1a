"""What `doctor` wants to know of a Docker Engine, and whether it gives GPUs to containers.

Each question is a request of its own with a short time-out, so that an engine that hangs is told
of, not waited for. Called by the Docker host.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any
from urllib.parse import quote

from dstack_engine.errors import HostUnreachable
from dstack_engine.hosts import docker_wire
from dstack_engine.hosts.docker_errors import CONNECTION_ERRORS, unreachable
from dstack_engine.hosts.gpus import seen_gpus
from dstack_engine.records.findings import Finding

#: Seconds for an answer to one question; an engine that lives takes less than 0.1.
TIMEOUT = 3.0
#: How many seconds an answer about GPUs is good: the toolkit comes with a restart of the engine.
KEEP = 60.0

#: The program by which the Docker Engine puts GPUs into containers; it is looked for on its PATH.
_GPU_HOOK = "nvidia-container-runtime-hook"

_INSTALL = "sudo apt-get install docker.io"
_START = "sudo systemctl start docker"
_JOIN = "sudo usermod -aG docker $USER, then log in again"
_TOOLKIT = (
    "Install the NVIDIA Container Toolkit, then: "
    "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
)


class GpuQuestion:
    """Whether the engine at *url* gives NVIDIA GPUs to containers; asked once a minute at most."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._known: tuple[bool, float] | None = None

    def answer(self) -> bool:
        """Return the answer; False, and asked again next time, when the engine does not answer."""
        with self._lock:
            if self._known is not None and monotonic() - self._known[1] < KEEP:
                return self._known[0]
            try:
                gives = gives_gpus(ask_info(self._url))
            except HostUnreachable:
                return False
            self._known = (gives, monotonic())
            return gives


def gives_gpus(info: Mapping[str, Any]) -> bool:
    """Tell from the engine's ``/info`` whether it gives NVIDIA GPUs to containers.

    It does with the runtime ``nvidia``, with GPUs described by CDI (told since version 28.2), and
    where it finds NVIDIA's hook; that can be looked for only when it runs on this computer.
    """
    if "nvidia" in (info.get("Runtimes") or {}):
        return True
    devices = info.get("DiscoveredDevices") or []
    if any(str(device.get("ID", "")).startswith("nvidia.com/gpu=") for device in devices):
        return True
    return info.get("Name") == socket.gethostname() and shutil.which(_GPU_HOOK) is not None


def ask_info(url: str) -> dict[str, Any]:
    """Return the engine's ``/info``. Raises `HostUnreachable`."""
    return dict(json.loads(_ask(url, "/info") or b"{}"))


def examine(
    url: str,
    images: Sequence[str],
    gpus: Callable[[], Sequence[str]] = seen_gpus,
) -> Iterator[Finding]:
    """Yield what is well and what is missing at the engine at *url*; raises nothing.

    *images* are those that runs use which name none; *gpus* are this computer's.
    """
    try:
        info = ask_info(url)
        yield Finding(True, "docker", _engine_in_words(url, info))
        for image in images:
            yield _image(url, image)
    except (HostUnreachable, ValueError, TypeError) as error:
        yield _absence(error)
        return
    try:
        count = len(gpus())
    except RuntimeError:
        return  # The process host tells of it.
    if count:
        yield _gpus(count, gives_gpus(info))


def _engine_in_words(url: str, info: Mapping[str, Any]) -> str:
    version, driver = info.get("ServerVersion", "unknown"), info.get("Driver", "unknown")
    return f"Docker Engine {version} answers at {url}, storage driver {driver}"


def _image(url: str, image: str) -> Finding:
    if _ask(url, f"/images/{quote(image)}/json") is None:
        words = f"{image} is not here yet; the first run that needs it pulls it"
    else:
        words = f"{image} is here"
    return Finding(True, "image", words)


def _gpus(count: int, gives: bool) -> Finding:
    if gives:
        return Finding(True, "docker gpus", "the Docker Engine gives GPUs to containers")
    what = "its GPU is" if count == 1 else f"its {count} GPUs are"
    return Finding(
        False,
        "docker gpus",
        f"this computer's Docker Engine lacks the NVIDIA Container Toolkit: {what} given to "
        "plain processes only",
        _TOOLKIT,
    )


def _absence(error: Exception) -> Finding:
    """Return the finding for an engine that does not answer: why, and the remedy."""
    rest = "; runs go to plain processes"
    cause = error.__cause__
    if isinstance(cause, PermissionError):
        return Finding(False, "docker", f"you may not use the Docker Engine's socket{rest}", _JOIN)
    if not shutil.which("dockerd") and isinstance(cause, (FileNotFoundError, ConnectionError)):
        return Finding(False, "docker", f"no Docker Engine is installed{rest}", _INSTALL)
    if isinstance(cause, (FileNotFoundError, ConnectionError)):
        return Finding(False, "docker", f"{error}{rest}", _START)
    hint = getattr(error, "hint", None)
    return Finding(False, "docker", f"{error}{rest}", hint or "sudo systemctl restart docker")


def _ask(url: str, path: str) -> bytes | None:
    try:
        return docker_wire.ask(url, path, TIMEOUT)
    except CONNECTION_ERRORS as error:
        raise unreachable(url, error) from error
