"""The disk of the engine's own home is full: it says so, loses nothing, and goes on with room."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_engine.errors import DiskFull
from dstack_engine.records.runs import RunStatus
from tests.journeys.engines import EngineProcess, until

pytestmark = pytest.mark.slow


class SmallDisk:
    """A disk in memory under the home, which can be filled."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"
        self._folder = folder

    def fill(self, leave: int = 0) -> None:
        """Take all room but *leave* bytes."""
        with self._ballast.open("wb") as file, contextlib.suppress(OSError):
            while (room := shutil.disk_usage(self._folder).free - leave) > 0:
                file.write(bytes(min(room, 1 << 16)))
                file.flush()

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()


@pytest.fixture
def disk(home: Path) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("needs root: a disk of its own")
    home.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "t", home], check=True)
    yield SmallDisk(home)
    subprocess.run(["umount", "-l", home], check=True)


def test_a_run_waits_while_the_disk_is_full_and_loses_nothing(
    disk: SmallDisk, engine: EngineProcess
) -> None:
    text = "commands: [echo up, 'until [ -e go ]; do sleep 0.05; done', seq 1 400000]"
    name = engine.start().submit(text).name
    engine.until(name, lambda view: view.status is RunStatus.RUNNING)
    engine.until_prints(name, b"up")
    disk.fill(leave=1 << 20)
    engine.client.execute(name, ["touch", "go"], lambda _stream, _data: None)
    # Output is written in pieces of some 64 KB each, whole or not at all: room for less is left.
    until(
        lambda: shutil.disk_usage(engine.home.root).free < 1 << 19,
        "the job to fill the disk",
        engine.log_tail,
    )
    assert not engine.client.run(name).finished
    disk.free()
    view = engine.until_ended(name)
    assert view.status is RunStatus.DONE, engine.log_tail()
    wanted = b"up\n" + b"".join(b"%d\n" % number for number in range(1, 400001))
    assert engine.output(name) == wanted


def test_a_run_that_cannot_be_saved_is_refused_with_the_reason(
    disk: SmallDisk, engine: EngineProcess
) -> None:
    engine.start()
    disk.fill()
    text = f"env: {{A: {'x' * 100_000}}}\ncommands: [echo up]"
    with pytest.raises(DiskFull, match="disk"):
        _submit_often(engine, text)
    disk.free()
    name = engine.submit("commands: [echo up]").name
    assert engine.until_ended(name).status is RunStatus.DONE


def test_an_engine_is_not_broken_by_a_start_on_a_full_disk(
    disk: SmallDisk, engine: EngineProcess
) -> None:
    engine.home.make()
    engine.settings = []
    disk.fill()
    engine.start()
    disk.free()
    if engine.ended:  # it could not make its database
        engine.start()
    name = engine.submit("commands: [echo up]").name
    assert engine.until_ended(name).status is RunStatus.DONE


def _submit_often(engine: EngineProcess, text: str) -> None:
    for _ in range(20):  # what SQLite has reserved already may take a few
        engine.submit(text)
