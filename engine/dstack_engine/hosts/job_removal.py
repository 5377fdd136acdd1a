"""Deleting a process-host job's folder, whatever the job has left in it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

_GRAVE = ".removed-"


def remove_folder(path: Path) -> None:
    """Take the folder out of sight in one step, then delete it and what earlier crashes left."""
    with suppress(FileNotFoundError):
        grave = path.with_name(f"{_GRAVE}{path.name}")
        _delete_tree(grave)
        path.replace(grave)
    for grave in path.parent.glob(f"{_GRAVE}*"):
        _delete_tree(grave)


def _delete_tree(path: Path) -> None:
    """Delete a folder, those below it made accessible first where that is needed."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        _open_up(path)
        shutil.rmtree(path, ignore_errors=True)


def _open_up(path: Path) -> None:
    """Make every folder at and below *path* readable and writable for its user."""
    pending = [str(path)]
    while pending:
        folder = pending.pop()
        with suppress(OSError):
            os.chmod(folder, 0o700)  # noqa: PTH101 - may hold names that are not UTF-8
            with os.scandir(folder) as entries:
                pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
