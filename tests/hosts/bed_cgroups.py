"""The control groups of a bed's host: one in each hierarchy, so that it can be frozen as a whole.

Both versions of cgroups are known. Used by `tests.hosts.bed_host`; needs root.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


class Cgroups:
    """The groups named *name*, right below the root of every hierarchy."""

    def __init__(self, name: str) -> None:
        self._roots = dict(_hierarchies())
        self._name = name

    def make(self) -> None:
        """Make the groups; those that are there are emptied of what ended in them."""
        for folder in self._folders():
            _remove_below(folder)
            folder.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # a new group of version 1 has none
                if (folder.parent / name).exists() and not (folder / name).read_text().strip():
                    (folder / name).write_text((folder.parent / name).read_text())

    def procs(self) -> list[Path]:
        """Return the files into which a process writes its id to join."""
        return [folder / "cgroup.procs" for folder in self._folders()]

    def release(self, pid: int) -> None:
        """Move *pid* back to where this process is: what holds a host is not of the host."""
        for controllers, path in _own_groups():
            if controllers in self._roots:
                procs = self._roots[controllers] / path.lstrip("/") / "cgroup.procs"
                procs.write_text(str(pid))

    def freeze(self, frozen: bool) -> None:
        """Stop every process in the group as it stands, or let them go on."""
        if "freezer" in self._roots:
            state = self._roots["freezer"] / self._name / "freezer.state"
            state.write_text("FROZEN" if frozen else "THAWED")
        else:
            (self._roots[""] / self._name / "cgroup.freeze").write_text("1" if frozen else "0")

    def destroy(self) -> None:
        """Take the groups away; nothing may run in them any more."""
        for folder in self._folders():
            _remove_below(folder)
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _folders(self) -> list[Path]:
        return [root / self._name for root in self._roots.values()]


def _hierarchies() -> Iterator[tuple[str, Path]]:
    """Yield each hierarchy's controllers as this process has them, and its mount point."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for controllers, _ in _own_groups():
        for _, folder, kind, options, *_ in mounts:
            wanted = set(controllers.split(","))
            if kind == "cgroup" and controllers and wanted <= set(options.split(",")):
                yield controllers, Path(folder)
                break
            if kind == "cgroup2" and not controllers:
                yield controllers, Path(folder)
                break


def _own_groups() -> list[tuple[str, str]]:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return [(line.split(":", 2)[1], line.split(":", 2)[2]) for line in lines]


def _remove_below(folder: Path) -> None:
    if folder.is_dir():
        for below in sorted(folder.glob("**/"), key=lambda path: -len(path.parts)):
            if below != folder:
                with contextlib.suppress(OSError):
                    below.rmdir()
