"""What `doctor` wants to know of this computer as a place for plain processes.

Called by the process host.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dstack_engine.hosts.gpus import seen_gpus
from dstack_engine.hosts.interpreters import OWN_VERSION, Interpreters
from dstack_engine.records.findings import Finding


def examine(
    path: str, interpreters: Interpreters, gpus: Callable[[], Sequence[str]] = seen_gpus
) -> Iterator[Finding]:
    """Yield what is well and what is missing; bounded in time, raises nothing.

    *path* is the jobs' PATH.
    """
    yield _shell(path)
    yield from _interpreters(interpreters)
    yield _gpus(gpus)
    yield _linux()


def _shell(path: str) -> Finding:
    bash = shutil.which("bash", path=path)
    if bash is None:
        fix = "sudo apt-get install bash"
        return Finding(False, "bash", "not here: commands of plain processes run by sh", fix)
    return Finding(True, "bash", bash)


def _interpreters(interpreters: Interpreters) -> Iterator[Finding]:
    there = interpreters.versions()
    named = [f"{name} (the engine's own)" if name == OWN_VERSION else name for name in there]
    yield Finding(True, "python", ", ".join(named) or f"{OWN_VERSION} (the engine's own)")
    if interpreters.has_uv():
        yield Finding(True, "uv", "fetches the other versions of Python for plain processes")
    else:
        words = "not here: plain processes have the versions of Python above, and no others"
        yield Finding(True, "uv", words)


def _gpus(gpus: Callable[[], Sequence[str]]) -> Finding:
    try:
        names = gpus()
    except RuntimeError as error:
        fix = "Reinstall the NVIDIA driver, or reboot: `nvidia-smi` has to work in a terminal."
        return Finding(False, "gpus", str(error), fix)
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return Finding(True, "gpus", ", ".join(counted) or "none (nvidia-smi sees no NVIDIA GPU)")


def _linux() -> Finding:
    """Look for what supervisors live by: /proc, and processes that can be waited for by handle."""
    missing = [] if Path("/proc/self/stat").is_file() else ["/proc"]
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        missing.append("pidfd_open (Linux 5.3)")
    if missing:
        words = f"plain processes cannot be looked after without {' and '.join(missing)}"
        return Finding(False, "linux", words, "Use Docker, or a newer Linux.")
    return Finding(True, "linux", f"{os.uname().release} has what plain processes need")
