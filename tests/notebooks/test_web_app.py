"""`web_app.ipynb`: a Streamlit app behind the gateway, its page in the notebook."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.notebooks.executing import execute

pytestmark = pytest.mark.slow


def test_an_app_is_served_and_spoken_to(
    host: str, folder: Path, extra_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain process also where there is a Docker Engine, as the notebook asks."""
    monkeypatch.setenv("EXTRAS", str(extra_python.parents[1]))
    cells = execute(nbformat.read(folder / "web_app.ipynb", as_version=4), folder)
    assert "IFrame" in cells["frame"]
    assert cells["socket-run"].strip() == "True"
    assert "terminated" in cells["stopped"]
