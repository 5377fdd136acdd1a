"""What every test has: a home of its own, a clean environment, and nothing left behind.

In CI a test that is skipped because something is missing is a failure: the ground is ours to make.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.hosts.fixtures"]

#: Reasons to skip that no set-up script can remove.
NOT_OURS_TO_MAKE = ("no GPU",)


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


def end_processes_of(home: Path) -> None:
    """End every process that was started with *home* as its engine's home."""
    mark = f"DSTACK_JUPYTER_HOME={home}\0".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environment.parent.name)
        try:
            if mark in environment.read_bytes() + b"\0" and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
        except OSError:
            continue  # gone, or somebody else's


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
