"""A full disk has a name of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dstack_engine.errors import DiskFull, StoreError
from dstack_engine.files.disk import disk_errors, write_all


def test_a_full_disk_is_told_from_other_trouble() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(DiskFull, match="that holds /here is full"), disk_errors(Path("/here")):
            write_all(full, b"x")
    finally:
        os.close(full)
    with pytest.raises(StoreError, match="cannot be written to /here"), disk_errors(Path("/here")):
        Path("/nonexistent/x").write_bytes(b"")
