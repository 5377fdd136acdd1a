"""What a container is made of: our spec in the words of the Docker Engine's API.

Pure. Called by the Docker host's `start`.
"""

from __future__ import annotations

import io
import math
import posixpath
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

from dstack_engine.hosts.base import ContainerSpec, Limits
from dstack_engine.hosts.docker_sightings import MAX_DURATION_LABEL
from dstack_engine.records.gpu_models import AMD_PREFIX

#: The project's root in every container.
WORKFLOW = "/workflow"
#: Where a script lies that is too long for an argument. Linux takes 128 KB in one.
SCRIPT_FILE = "/.dstack/script"
LONGEST_ARGUMENT = 100 << 10

_GB = 1 << 30

#: Runs the script by bash where the image has it, else by sh. `$1` is the script or, with `$2`,
#: the file that it lies in. Ctrl-C and SIGTERM reach the whole process group (tini's variable),
#: as in a terminal: a script's trap runs at once, not after the command in front has ended.
_LAUNCHER = """\
unset TINI_KILL_PROCESS_GROUP
mkdir -p "$HOME" 2>/dev/null
{watch}shell=sh
command -v bash >/dev/null && shell=bash
[ -n "$2" ] && exec "$shell" "$2"
exec "$shell" -c "$1" "$shell"
"""

#: Ends everything but init when the time is over; holds none of the output, survives SIGTERM.
_WATCH = """\
( ( trap '' HUP INT TERM
    sleep {seconds}; kill -TERM -1; sleep {grace}; kill -KILL -1
  ) </dev/null >/dev/null 2>&1 & )
"""


def creation(spec: ContainerSpec, *, log_cap: int) -> dict[str, Any]:
    """Return the body of the engine's ``POST /containers/create``."""
    body: dict[str, Any] = {
        "Image": spec.image,
        "Labels": _labels(spec),
        "Env": _environment(spec),
        "WorkingDir": posixpath.normpath(posixpath.join(WORKFLOW, spec.working_dir)),
        "ExposedPorts": {f"{route.container_port}/tcp": {} for route in spec.routes},
        "HostConfig": _host_config(spec, log_cap),
    }
    if spec.user is not None:
        body["User"] = spec.user
    return body | _command(spec)


def needs_script_file(spec: ContainerSpec) -> bool:
    """Tell whether the script has to be put into the container as a file."""
    script = spec.script
    return script is not None and not spec.entrypoint and len(script.encode()) > LONGEST_ARGUMENT


def write_own_tar(spec: ContainerSpec, working_dir: str) -> Callable[[BinaryIO], None] | None:
    """Return what writes our own part below ``/`` as a tar; None when there is none.

    That is the script when it is long, and the working directory when it has to belong to
    somebody else than root.
    """
    folders = _own_folders(spec, working_dir)
    if not folders and not needs_script_file(spec):
        return None

    def write(target: BinaryIO) -> None:
        with tarfile.open(fileobj=target, mode="w|") as tar:
            for folder in folders:
                entry = tarfile.TarInfo(folder.lstrip("/"))
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            if needs_script_file(spec):
                script = (spec.script or "").encode()
                entry = tarfile.TarInfo(SCRIPT_FILE.lstrip("/"))
                entry.size, entry.mode = len(script), 0o644
                tar.addfile(entry, io.BytesIO(script))

    return write


def _own_folders(spec: ContainerSpec, working_dir: str) -> list[str]:
    """Return the working directory and the folders above it up to the project's root."""
    if spec.user is None:
        return []
    folders = [working_dir]
    while folders[-1].startswith(f"{WORKFLOW}/"):
        folders.append(posixpath.dirname(folders[-1]))
    return folders[::-1]


def _command(spec: ContainerSpec) -> dict[str, Any]:
    if spec.entrypoint:
        command = {"Entrypoint": list(spec.entrypoint)}
        return command | ({} if spec.script is None else {"Cmd": [spec.script]})
    if spec.script is None:
        return {}
    launcher = _LAUNCHER.format(watch=_watch(spec))
    argument = ["", SCRIPT_FILE] if needs_script_file(spec) else [spec.script]
    return {
        "Entrypoint": ["/bin/sh", "-c", launcher, "sh"],
        "Cmd": argument,
        "StopSignal": "SIGTERM",
    }


def _watch(spec: ContainerSpec) -> str:
    if spec.max_duration is None:
        return ""
    seconds = max(math.ceil(spec.max_duration.total_seconds()), 1)
    grace = max(math.ceil(spec.stop_grace.total_seconds()), 1)
    return _WATCH.format(seconds=seconds, grace=grace)


def _labels(spec: ContainerSpec) -> dict[str, str]:
    labels = dict(spec.labels)
    if spec.max_duration is not None:
        labels[MAX_DURATION_LABEL] = str(spec.max_duration.total_seconds())
    return labels


def _environment(spec: ContainerSpec) -> list[str]:
    environment = {"HOME": spec.home_dir, **spec.environment}
    if spec.script is not None and not spec.entrypoint:
        environment["TINI_KILL_PROCESS_GROUP"] = "1"
    return [f"{name}={value}" for name, value in environment.items()]


def _host_config(spec: ContainerSpec, log_cap: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Init": True,
        "Privileged": spec.privileged,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": _log_config(log_cap),
    }
    if spec.host_network:
        config["NetworkMode"] = "host"
    else:
        config["PortBindings"] = _port_bindings(spec)
    return config | _limits(spec.limits)


def _log_config(log_cap: int) -> dict[str, Any]:
    """Bound the engine's own copy of the log without losing what our log would keep.

    The driver `local` keeps any bytes, where `json-file` spoils what is not UTF-8. An engine of
    version 20 loses lines to a follower when it begins a new file, so that happens only after
    more than our cap was printed: an entry takes at most 2.5 times the room of a frame of ours (an
    empty line: 14 bytes here, 33 there). Two files are kept.
    """
    size = max(int(log_cap * 2.5), 1 << 20)
    limits = {"max-size": str(size), "max-file": "2", "compress": "false"}
    return {"Type": "local", "Config": limits}


def _port_bindings(spec: ContainerSpec) -> Mapping[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for route in spec.routes:
        binding = {"HostIp": route.address, "HostPort": str(route.local_port)}
        bindings.setdefault(f"{route.container_port}/tcp", []).append(binding)
    return bindings


def _limits(limits: Limits) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if limits.cpus is not None:
        found["NanoCpus"] = int(limits.cpus * 10**9)
    if limits.memory_gb is not None:
        # The same figure for memory with swap: none is used, so the limit is the limit.
        found["Memory"] = found["MemorySwap"] = int(limits.memory_gb * _GB)
    if limits.shm_gb is not None:
        found["ShmSize"] = int(limits.shm_gb * _GB)
    return found | _gpus(limits.gpus)


def _gpus(ids: Sequence[str]) -> dict[str, Any]:
    """NVIDIA's GPUs are asked for by their ids; AMD's are files that are shown to the container."""
    found: dict[str, Any] = {}
    files = [gpu.removeprefix(AMD_PREFIX) for gpu in ids if gpu.startswith(AMD_PREFIX)]
    if files:
        paths = ["/dev/kfd", *(f"/dev/dri/{file}" for file in files)]
        found["Devices"] = [
            {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}
            for path in paths
        ]
    if nvidia := [gpu for gpu in ids if not gpu.startswith(AMD_PREFIX)]:
        found["DeviceRequests"] = [{"DeviceIDs": nvidia, "Capabilities": [["gpu"]]}]
    return found
