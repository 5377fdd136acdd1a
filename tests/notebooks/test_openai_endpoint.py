"""`openai_endpoint.ipynb`: a real transformer behind the gateway, asked from a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from dstack_engine.home import Home
from dstack_engine.tokens import read_token
from tests.notebooks.executing import execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_model_is_trained_served_and_asked(
    home: Path, folder: Path, extra_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXTRAS", str(extra_python.parents[1]))
    home.mkdir(parents=True)
    (home / "config.yml").write_text("local: {docker: false}\n")
    notebook = nbformat.read(folder / "openai_endpoint.ipynb", as_version=4)
    cells = execute(notebook, folder)
    assert "written to tiny" in cells["train-run"]
    assert "model.safetensors" in cells["pull"]
    assert "tiny" in cells["models"]
    assert cells["client"].strip() == "['tiny']"
    assert "One running copy of a service." in cells["completion"]
    *numbers, pieces, _word = cells["stream"].split()
    assert numbers == [str(number) for number in range(1, 21)]
    assert int(pieces) > len(numbers)
    assert cells["together"].strip() == "True"
    assert "Forty-two." in cells["completions"]
    assert "A language model of half a million numbers" in cells["chat-cell"]
    assert "A small program on this computer" in cells["chat-on"]
    assert "large" in cells["wrong"]
    assert "tiny" in cells["wrong"]
    assert 'requests_total{model="tiny",token=' in cells["metrics"]
    row = cells["usage-run"].splitlines()[1].split()
    assert row[:5] == ["tiny", "chat", "1", "12", "0"]  # 12 asked, 7 of them together; no error
    assert "terminated" in cells["stopped"]
    assert read_token(Home(home)) not in nbformat.writes(notebook)
