"""What tests of notebooks have: a copy of the folder, and an engine's settings for one host."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.notebooks.executing import NOTEBOOKS

PROCESSES = "local: {docker: false}\n"


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def host(request: pytest.FixtureRequest, home: Path) -> str:
    """An engine's settings for one host: Docker with an image that is here, or processes only."""
    home.mkdir(parents=True)
    settings = PROCESSES
    if request.param == "docker":
        settings = f"default_image: {request.getfixturevalue('python_image')}\n"
    (home / "config.yml").write_text(settings)
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the notebooks' folder, so that nothing is written beside the real ones."""
    return Path(shutil.copytree(NOTEBOOKS, tmp_path / "notebooks"))
