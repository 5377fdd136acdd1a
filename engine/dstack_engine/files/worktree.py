"""A project listed by git: what is tracked, or new and not ignored, uncommitted changes included.

`files.tree` asks here first. The one home of the git command line. Work trees inside the work
tree, submodules or not, are listed by their own git.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from dstack_engine.errors import TooLarge
from dstack_engine.files.listing import (
    DSTACKIGNORE,
    HINT,
    NEVER_SENT,
    Fence,
    IsIgnored,
    Listing,
    check_count,
    environments_among,
)

#: Git may think about one work tree for so long, in seconds.
PATIENCE = 10.0
#: Git's list is read so far, in bytes: about a million names.
LONGEST_LIST = 64_000_000

#: What a git hook leaves in its children's environment; it would lead git to another work tree.
MISLEADING = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"})

#: Given the folders that hold a `.dstackignore`, returns the question that they answer together.
ReadIgnores = Callable[[list[str]], IsIgnored]


class GitFailed(Exception):
    """Git did not answer; its text is the reason, for a remark."""


def find_work_tree(root: Path) -> Path | None:
    """Return the nearest folder, from *root* up, that holds a `.git`."""
    for folder in (root, *root.parents):
        if (folder / ".git").exists():
            return folder
    return None


def is_ignored_by_git(root: Path) -> bool:
    """Tell whether *root* lies in a work tree that wants to know nothing of it."""
    status, _, complaint = _git(root, "check-ignore", "--quiet", ".")
    if status not in (0, 1):
        raise GitFailed(complaint or f"it ended with {status}")
    return status == 0


def list_work_tree(
    root: Path, *, max_files: int, left_out: Iterable[str], read_ignores: ReadIgnores
) -> Listing:
    """Return what git shows of *root*, less the folders *left_out* and what `.dstackignore` says.

    Raises `GitFailed` when git cannot say, `TooLarge` above *max_files*.
    """
    listing = Listing(root)
    names: set[str] = set()
    waiting, seen = [""], {""}
    while waiting:
        shown = [name for tree in waiting for name in _names(root, tree, listing.remarks)]
        names.update(shown)
        fence = Fence({*left_out, *environments_among(names)}, _ignores(root, names, read_ignores))
        kept = [name for name in dict.fromkeys(shown) if not fence.has_out(name.rstrip("/"))]
        check_count(len(listing.found) + len(kept), names, max_files)
        folders = {name.rstrip("/") for name in listing.look(kept)}
        waiting = [name for name in sorted(folders - seen) if (root / name / ".git").exists()]
        seen.update(waiting)
    return listing


def _ignores(root: Path, names: Iterable[str], read_ignores: ReadIgnores) -> IsIgnored | None:
    marks = {name.rpartition("/")[0] for name in names if name.endswith(f"/{DSTACKIGNORE}")}
    if (root / DSTACKIGNORE).is_file():
        marks.add("")
    return read_ignores(sorted(marks)) if marks else None


def _names(root: Path, tree: str, remarks: list[str]) -> list[str]:
    """Return the names that git shows in the work tree *tree*, relative to the project."""
    excludes = [f"--exclude={name}" for name in sorted(NEVER_SENT)]
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", *excludes]
    status, output, complaint = _git(root / tree, *listing)
    if status != 0:
        raise GitFailed(complaint or f"it ended with {status}")
    if complaint:
        remarks.append(f"git says: {complaint}")
    start = f"{tree}/" if tree else ""
    return [start + name for name in os.fsdecode(output).split("\0") if name]


def _git(folder: Path, *arguments: str) -> tuple[int, bytes, str]:
    """Run git in *folder*; return its exit status, its output and its first words of complaint.

    A file-system monitor would be started by it and outlive it, so none takes part.
    """
    environment = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    process = subprocess.Popen(
        ["git", "-c", "core.fsmonitor=false", *arguments],
        cwd=folder,
        env={**environment, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    complaints: list[bytes] = []
    reader = threading.Thread(target=lambda: complaints.extend(process.stderr or ()), daemon=True)
    reader.start()
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        output = _read_bounded(process)
        status = process.wait()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        reader.join(1)
    if status == -signal.SIGKILL:
        raise GitFailed(f"no answer within {PATIENCE:.0f} s")
    first = b"".join(complaints[:1]).decode("utf-8", "replace").strip()
    return status, output, first[:200]


def _read_bounded(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None, "git's output is a pipe"
    with process.stdout as stream:
        output = stream.read(LONGEST_LIST + 1)
    if len(output) > LONGEST_LIST:
        raise TooLarge("the project has far too many files for git to list", hint=HINT)
    return output
