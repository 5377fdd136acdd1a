"""What has to agree between the page's side, its settings and Python, read from the sources."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jupyterlab
import pytest

from dstack_engine import __version__
from dstack_engine.spec.parsing import parse_configuration
from tests.hosts.commands import REPOSITORY

EXTENSION = REPOSITORY / "labextension"
SOURCES = EXTENSION / "src"
SCHEMAS = sorted((EXTENSION / "schema").glob("*.json"))
PACKAGE = json.loads((EXTENSION / "package.json").read_text())
LOCK = json.loads((EXTENSION / "package-lock.json").read_text())

#: An import of a package; those of types alone leave nothing behind.
IMPORT = re.compile(r"^(?:import|export) (?!type )[^;]*? from '([^.'][^']*)';", re.MULTILINE)

#: What the page does not have already, and so is sent to it with ours.
SENT = {"@codemirror/legacy-modes"}


def source(name: str) -> str:
    return (SOURCES / name).read_text()


def plugins() -> dict[str, str]:
    """Return the sources of all plugins by the name that each is disabled by."""
    files = (SOURCES / "plugins").glob("*.ts")
    return {f"dstack-jupyter:{path.stem}": path.read_text() for path in files}


def test_the_page_has_the_version_of_the_package() -> None:
    assert PACKAGE["version"] == LOCK["version"] == __version__


def test_the_lockfile_is_of_this_package_and_names_no_host() -> None:
    root = LOCK["packages"][""]
    for kind in ("dependencies", "devDependencies"):
        assert root[kind] == PACKAGE[kind], "run: npm install --package-lock-only"
    assert [name for name, entry in LOCK["packages"].items() if "resolved" in entry] == []


def test_the_extension_depends_on_what_it_imports_and_on_nothing_else() -> None:
    texts = [path.read_text() for path in SOURCES.rglob("*.ts*") if "__tests__" not in path.parts]
    named = {name for text in texts for name in IMPORT.findall(text)}
    packages = {"/".join(name.split("/")[: 2 if name.startswith("@") else 1]) for name in named}
    assert packages == set(PACKAGE["dependencies"])
    lab = json.loads(
        Path(jupyterlab.__file__).with_name("staging").joinpath("package.json").read_text()
    )
    assert packages - set(lab["jupyterlab"]["singletonPackages"]) == SENT


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda path: path.stem)
def test_settings_belong_to_a_plugin_and_name_commands_that_exist(schema: Path) -> None:
    content = json.loads(schema.read_text())
    assert f"dstack-jupyter:{schema.stem}" in plugins()
    assert content["additionalProperties"] is False
    assert all("description" in each for each in content["properties"].values())
    known = set(re.findall(r"= '(dstack:[a-z-]+)'", source("tokens.ts")))
    assert commands_in(content) <= known


def commands_in(content: Any) -> set[str]:
    """Return the names of commands anywhere in a schema."""
    if isinstance(content, list):
        return {name for each in content for name in commands_in(each)}
    if not isinstance(content, dict):
        return set()
    inner = {name for each in content.values() for name in commands_in(each)}
    return inner | ({content["command"]} if isinstance(content.get("command"), str) else set())


def test_every_sheet_is_loaded() -> None:
    sheets = {path.name for path in (EXTENSION / "style").glob("*.css")}
    loaded = re.findall(r"import './(.*)'", (EXTENSION / "style/index.js").read_text())
    assert set(loaded) == sheets


def test_every_plugin_is_listed_and_can_be_disabled_by_its_own_name() -> None:
    listed = re.findall(r"from './plugins/([a-z-]+)'", source("index.ts"))
    assert {f"dstack-jupyter:{name}" for name in listed} == set(plugins())
    for name, text in plugins().items():
        assert f"'{name}'" in text


def test_the_cells_of_the_first_notebook_are_what_the_engine_understands() -> None:
    cells = re.findall(r"= `%%dstack (task|service) (.*?)\n(.*?)`;", source("template.ts"), re.S)
    assert [kind for kind, _, _ in cells] == ["task", "service"]
    for kind, _, body in cells:
        assert parse_configuration(f"type: {kind}\n{body}").type == kind
