"""`ssh_fleet.ipynb`, executed in a real kernel; its boxes are hosts of the bed."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.hosts.bed import Bed
from tests.journeys.engines import until
from tests.notebooks.executing import execute

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def test_machines_of_ones_own_are_shown_to_work(
    bed: Bed, bed_python_image: str, home: Path, folder: Path
) -> None:
    home.mkdir(parents=True)
    (home / "config.yml").write_text(f"default_image: {bed_python_image}\n")
    notebook = nbformat.read(folder / "ssh_fleet.ipynb", as_version=4)
    fleet = next(cell for cell in notebook.cells if cell.id == "fleet-run")
    first, second, _ = bed.hosts
    for written, real in {
        "192.0.2.5": first.address,
        "192.0.2.6": second.address,
        "user: ubuntu": "user: ann",
        "~/.ssh/id_ed25519": str(bed.identity_file),
    }.items():
        assert written in fleet.source
        fleet.source = fleet.source.replace(written, real)
    cells = execute(notebook, folder)
    assert "lab-0" in cells["fleet-list"]
    assert "lab-1" in cells["fleet-list"]
    assert "with 6 notebooks" in cells["task-run"]
    assert cells["port-open"] == "True"
    assert cells["service-visit"] == "2"
    assert "page" in cells["service-where"]
    assert "the master is " in cells["cluster-run"]
    until(lambda: not any(host.docker.volumes.list() for host in bed.hosts), "nothing to be left")
    assert bed.containers() == {"h1": [], "h2": [], "h3": []}
