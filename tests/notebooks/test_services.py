"""`services.ipynb`, executed in a real kernel on both hosts."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

from dstack_engine.home import Home
from dstack_engine.tokens import read_token
from tests.notebooks.executing import execute

pytestmark = pytest.mark.slow


def test_services_are_shown_to_work(host: str, home: Path, folder: Path) -> None:
    notebook = nbformat.read(folder / "services.ipynb", as_version=4)
    cells = execute(notebook, folder)
    assert ".localhost:" in cells["address"]
    assert "/services/hello/" in cells["address"]
    assert "version 1" in cells["visit-run"]
    status, message = ast.literal_eval(cells["refused"])
    assert status == 401
    assert "token" in message
    assert "hello" in cells["ps"]
    assert set(ast.literal_eval(cells["updated"])) == {(200, "version 1"), (200, "version 2")}
    assert cells["report"].count("ready") == 2
    assert "GET /" in cells["logs"]
    assert cells["asleep"].strip() == "0"
    assert "good morning" in cells["wake"]
    assert "sleeper" in cells["woken"]
    assert cells["stopped"].count("terminated") == 2
    assert read_token(Home(home)) not in nbformat.writes(notebook)
