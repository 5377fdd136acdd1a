"""What the Docker Engine of a machine tells of it, and whether it really gives the GPUs out.

The question about GPUs is asked by doing: a container is made as a job's is, of an empty image
that is made for it, and started. A driver that is half-installed, a missing toolkit and a GPU that
fell off the bus are all found so. Used by `machine_examination`.
"""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from dstack_engine.hosts import docker_wire
from dstack_engine.hosts.base import ContainerSpec, Limits
from dstack_engine.hosts.docker_containers import creation

#: Seconds for one short question; over a slow link an engine that lives takes less than 1.
TIMEOUT = 8.0
#: Seconds for a container with GPUs to be started: without persistence mode the driver wakes first.
START_TIMEOUT = 10.0

#: The image and the container of the trial, one at a time on a machine.
PROBE = "dstack-jupyter-probe"

#: Two looks into one machine try one after the other.
_trying: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

#: What the engine says when the devices were given and only the empty image was in the way.
_IMAGE_TROUBLES = ("ldcache", "ldconfig")

#: What we say of a driver that hangs.
_NOT_STARTED = "was started within"
#: What is so for all GPUs when it is so for some: nothing gives them, or the driver hangs.
_FOR_ALL = ("could not select device driver", _NOT_STARTED)


def ask_info(url: str) -> Mapping[str, Any]:
    """Return the engine's ``/info``. Raises what a lost connection raises, and `ValueError`."""
    return dict(json.loads(docker_wire.ask(url, "/info", TIMEOUT) or b"{}"))


def ask_containers(url: str, label: str) -> set[str]:
    """Return the ids of the running containers that carry *label*; raises as `ask_info`."""
    filters = quote(json.dumps({"label": [label]}))
    found = json.loads(
        docker_wire.ask(url, f"/containers/json?filters={filters}", TIMEOUT) or b"[]"
    )
    return {str(each["Id"]) for each in found}


@dataclass(frozen=True)
class GpuTrial:
    """Which GPUs a container could be given, and why not the others."""

    given: frozenset[str]
    #: The engine's words for each of those that it does not give.
    refused: Mapping[str, str] = field(default_factory=dict)


def try_gpus(url: str, uuids: Sequence[str]) -> GpuTrial:
    """Try which NVIDIA GPUs the engine gives: all at once first; when that fails, one by one.

    Raises what a lost connection raises.
    """
    if not uuids:
        return GpuTrial(frozenset())
    with _trying[url]:
        _clean(url)
        try:
            _import_empty_image(url)
            refused = _refusals(url, uuids)
        finally:
            with suppress(TimeoutError):
                _clean(url)
    return GpuTrial(frozenset(uuids) - refused.keys(), refused)


def _refusals(url: str, uuids: Sequence[str]) -> dict[str, str]:
    whole = _refusal(url, uuids)
    if whole is None:
        return {}
    if len(uuids) == 1 or any(words in whole for words in _FOR_ALL):
        return dict.fromkeys(uuids, whole)
    alone = {uuid: _refusal(url, [uuid]) for uuid in uuids}
    return {uuid: why for uuid, why in alone.items() if why is not None}


def _refusal(url: str, uuids: Sequence[str]) -> str | None:
    """Return why a container with these GPUs does not start; None when it does."""
    gpus = Limits(gpus=tuple(uuids))
    spec = ContainerSpec(PROBE, {}, None, image=PROBE, entrypoint=("/nothing",), limits=gpus)
    steps = (
        (f"/containers/create?name={PROBE}", creation(spec, log_cap=1 << 20)),
        (f"/containers/{PROBE}/start", None),
    )
    try:
        for path, body in steps:
            status, said = docker_wire.call(url, "POST", path, body, timeout=START_TIMEOUT)
            if status >= 400:
                why = docker_wire.refusal(said)
                return None if any(word in why for word in _IMAGE_TROUBLES) else why
        return None
    except TimeoutError:
        return f"no container with it {_NOT_STARTED} {START_TIMEOUT:.0f} s"
    finally:
        with suppress(TimeoutError):
            _remove_container(url)


def _import_empty_image(url: str) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        folder = tarfile.TarInfo("etc")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
    path = f"/images/create?fromSrc=-&repo={PROBE}"
    docker_wire.call(url, "POST", path, content.getvalue(), timeout=START_TIMEOUT)


def _clean(url: str) -> None:
    """Take away the trial's container and image, also those that an earlier one left behind."""
    _remove_container(url)
    docker_wire.call(url, "DELETE", f"/images/{PROBE}?force=1", timeout=START_TIMEOUT)


def _remove_container(url: str) -> None:
    docker_wire.call(url, "DELETE", f"/containers/{PROBE}?force=1&v=1", timeout=START_TIMEOUT)
