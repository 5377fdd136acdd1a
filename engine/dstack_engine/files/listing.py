"""What a listing of a project is, and what stays out of every one of them.

`files.worktree` lists by asking git, `files.walking` by walking; `files.tree` chooses between
them and reads the files. Either way `.dstackignore` takes away more, and what every machine
makes anew for itself never goes along.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR

from dstack_engine.errors import TooLarge
from dstack_engine.files.manifest import parents_of, show_path

#: Folders (and files of these names) that never belong to a project, tracked or not.
NEVER_SENT = frozenset({".git", "__pycache__", ".ipynb_checkpoints", "node_modules"})
#: Marks a Python virtual environment, which works on no other machine.
VENV_MARK = "pyvenv.cfg"
GITIGNORE, DSTACKIGNORE = ".gitignore", ".dstackignore"
HINT = (
    "Name what is not needed in .gitignore or .dstackignore, submit without files (--no-files), "
    "or raise files_limit in config.yml."
)

#: Asked with a path relative to the project, and whether it is a folder.
IsIgnored = Callable[[str, bool], bool]


@dataclass
class Listing:
    """The project's names as they are found, each with what `lstat` says of it."""

    root: Path
    found: dict[str, os.stat_result] = field(default_factory=dict)
    empty_folders: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def look(self, names: Iterable[str]) -> list[str]:
        """Add *names* as far as they are there; return those that are folders, not added."""
        start, folders = f"{self.root}/", []
        for name in names:
            try:
                status = os.lstat(start + name)
            except (FileNotFoundError, NotADirectoryError):
                continue  # deleted, and git was not told
            except OSError:
                self.unread.append(name)
                continue
            if S_ISDIR(status.st_mode):
                folders.append(name)
            else:
                self.found[name] = status
        return folders


class Fence:
    """Tells what stays out whatever git says: never-sent names, environments, `.dstackignore`."""

    def __init__(self, left_out: Iterable[str], is_ignored: IsIgnored | None) -> None:
        self._left_out = set(left_out)
        self._is_ignored = is_ignored
        self._known: dict[str, bool] = {"": False}

    def has_out(self, path: str) -> bool:
        """Tell whether the file at *path*, or a folder above it, stays out."""
        folder, _, name = path.rpartition("/")
        if self._folder_out(folder) or name in NEVER_SENT:
            return True
        return self._is_ignored is not None and self._is_ignored(path, False)

    def _folder_out(self, folder: str) -> bool:
        known = self._known.get(folder)
        if known is not None:
            return known
        out = False
        for step in reversed([folder, *parents_of(folder)]):
            out = out or self._known.get(step, False) or self._step_out(step)
            self._known[step] = out
        return out

    def _step_out(self, folder: str) -> bool:
        if folder.rpartition("/")[2] in NEVER_SENT or folder in self._left_out:
            return True
        return self._is_ignored is not None and self._is_ignored(folder, True)


def environments_among(names: Iterable[str]) -> set[str]:
    """Return the folders that are Python virtual environments, going by the names in them."""
    mark = f"/{VENV_MARK}"
    return {name.removesuffix(mark) for name in names if name.endswith(mark)}


def check_count(count: int, names: Iterable[str], max_files: int) -> None:
    """Raise `TooLarge`, naming the folders with the most files, when *count* is too many."""
    if count <= max_files:
        return
    counts = Counter(f"{name.partition('/')[0]}/" for name in names if "/" in name)
    most = ", ".join(f"{show_path(folder)} ({count:,})" for folder, count in counts.most_common(3))
    where = f"; most are in {most}" if most else ""
    raise TooLarge(f"the project has more than {max_files:,} files{where}", hint=HINT)


def some_of(names: Sequence[str] | Mapping[str, object]) -> str:
    """Return the first few of *names*, and how many more there are."""
    shown = ", ".join(show_path(name) for name in sorted(names)[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5:,} more"
