"""What `tests/conftest.py` promises to every test is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dstack_engine.home import Home
from dstack_engine.reconcilers.containers import home_labels
from tests.conftest import end_processes_of, remove_containers_of
from tests.hosts.commands import REPOSITORY
from tests.hosts.engines import Engine


def a_suite(folder: Path, source: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run *source* as a test file under the root conftest, in a process of its own."""
    (folder / "test_inner.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", folder],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CI": "false"} | environ,
        capture_output=True,
        text=True,
        check=False,
    )


SKIPPING = """
import pytest
def test_of_a_thing_that_is_missing():
    pytest.skip("needs docker: none here")
def test_of_a_thing_that_nobody_can_install():
    pytest.skip("no GPU on this computer")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", "1 failed, 1 skipped"), ("false", "2 skipped")]
)
def test_a_skip_is_a_failure_in_ci_unless_nothing_can_be_done(
    tmp_path: Path, ci: str, outcome: str
) -> None:
    done = a_suite(tmp_path, SKIPPING, CI=ci)
    assert outcome in done.stdout, done.stdout + done.stderr


def test_every_test_has_a_home_of_its_own_and_no_settings_of_the_developer(
    home: Path, tmp_path: Path
) -> None:
    assert Path(os.environ["DSTACK_JUPYTER_HOME"]) == home
    assert home.is_relative_to(tmp_path)
    others = {name for name in os.environ if name.startswith("DSTACK_")} - {"DSTACK_JUPYTER_HOME"}
    assert others == set()


@pytest.mark.parametrize("tie", ["environment", "command", "working folder"])
def test_what_a_test_left_running_in_its_home_is_ended(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tie: str
) -> None:
    home.mkdir()
    if tie != "environment":
        monkeypatch.delenv("DSTACK_JUPYTER_HOME")
    command = ["sh", "-c", "echo; read forever", str(home) if tie == "command" else "-"]
    folder = home if tie == "working folder" else tmp_path
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, **pipes) as leftover:
        leftover.stdout.readline()  # before it runs, its environment cannot be seen
        end_processes_of(home)
        assert leftover.wait(10) == -9


@pytest.mark.docker
def test_containers_that_a_test_left_are_removed(
    home: Path, docker_engine: Engine, busybox_image: str
) -> None:
    run = docker_engine.client.containers.run
    ours = run(busybox_image, ["sleep", "1000"], labels=home_labels(Home(home)), detach=True)
    other = run(busybox_image, ["sleep", "1000"], labels={"dstack-jupyter.home": "x"}, detach=True)
    remove_containers_of(home)
    left = {container.id for container in docker_engine.client.containers.list(all=True)}
    other.remove(force=True)
    assert (ours.id in left, other.id in left) == (False, True)
