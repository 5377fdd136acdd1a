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
    """Delete a folder whatever modes its files have."""

    def open_up(_function: object, failed: str, _error: object) -> None:
        with suppress(OSError):
            os.chmod(os.path.dirname(failed), 0o700)  # noqa: PTH101, PTH120
            os.chmod(failed, 0o700)  # noqa: PTH101
            if os.path.isdir(failed) and not os.path.islink(failed):  # noqa: PTH112, PTH114
                shutil.rmtree(failed, ignore_errors=True)
            else:
                os.unlink(failed)  # noqa: PTH108

    for _ in range(3):
        if not path.exists():
            return
        shutil.rmtree(path, onerror=open_up)
