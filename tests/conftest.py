"""What every test has: a home of its own, a clean environment, and nothing left behind.

In CI a test that is skipped because something is missing is a failure: the ground is ours to make.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException, NotFound

pytest_plugins = ["tests.hosts.fixtures"]

#: Reasons to skip that no set-up script can remove.
NOT_OURS_TO_MAKE = ("no GPU",)


#: Tests in these folders start engines and kernels, each of which takes a second or more.
STARTS_ENGINES = ("tests/journeys/", "tests/notebook/", "tests/notebooks/", "tests/server/")

#: What lies there and starts nothing.
STARTS_NOTHING = ("test_arguments.py", "test_magics.py", "test_watching.py")


def pytest_configure() -> None:
    """Let what tests start hear Ctrl-C: a shell has its background jobs born deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what starts an engine, so that the fast gate stays fast."""
    for item in items:
        file = item.path.as_posix()
        if item.path.name not in STARTS_NOTHING and any(f in file for f in STARTS_ENGINES):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A `DSTACK_JUPYTER_HOME` of this test's own; engines and jobs left in it are ended."""
    for name in [name for name in os.environ if name.startswith("DSTACK_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "dstack-home"
    monkeypatch.setenv("DSTACK_JUPYTER_HOME", str(folder))
    yield folder
    if folder.exists():
        end_processes_of(folder)
        remove_containers_of(folder)


def end_processes_of(home: Path) -> None:
    """End every process that was started for the engine of *home*, jobs' processes included."""
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid != os.getpid() and _belongs_to(folder, home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _belongs_to(process: Path, home: Path) -> bool:
    """Tell whether the home is in the process's environment or command, or is where it works."""
    try:
        environment = (process / "environ").read_bytes()
        command = (process / "cmdline").read_bytes()
        works_in = (process / "cwd").readlink()
    except OSError:
        return False  # gone, or somebody else's
    # A job's program may work elsewhere, yet is told where its project lies in the home.
    named = bytes(home) in environment or bytes(home) in command
    return named or works_in.is_relative_to(home)


def remove_containers_of(home: Path) -> None:
    """Remove the containers that the engine of *home* left, where a Docker Engine answers."""
    # Imported here so that most tests do not wait for the engine to be imported.
    from dstack_engine.home import Home
    from dstack_engine.reconcilers.containers import home_labels

    labels = [f"{name}={value}" for name, value in home_labels(Home(home)).items()]
    with contextlib.suppress(DockerException), contextlib.closing(docker.from_env()) as client:
        for container in client.containers.list(all=True, filters={"label": labels}):
            with contextlib.suppress(NotFound):
                container.remove(force=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn a skip into a failure in CI, where every test has to run."""
    report = (yield).get_result()  # type: ignore[misc]
    if not report.skipped or hasattr(report, "wasxfail") or os.environ.get("CI") != "true":
        return
    reason = str(call.excinfo.value) if call.excinfo else ""
    if not any(words in reason for words in NOT_OURS_TO_MAKE):
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI every test has to run: {reason}"
