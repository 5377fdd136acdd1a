"""A project folder, and a notebook in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebook.kernels import Notebook, kernel

#: Tests here are of the notebook's side: jobs are plain processes, which start quickest.
ON_THE_PROCESS_HOST = "--instance-type process"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two files."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "greet.py").write_text("print('hello from a file')\n")
    (folder / "hello.dstack.yml").write_text("type: task\ncommands:\n  - python greet.py\n")
    return folder


@pytest.fixture
def notebook(project: Path, home: Path) -> Iterator[Notebook]:
    """A notebook in the project."""
    with kernel(project) as opened:
        yield opened
