"""A project's files on machines of a fleet: there for each run, sent once, gone with the fleet."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstack_engine.client import Client
from dstack_engine.files.tree import scan_project
from dstack_engine.files.uploads import upload_tree
from dstack_engine.records.runs import RunStatus
from tests.files.projects import write
from tests.hosts.bed import Bed
from tests.hosts.bed_host import BedHost
from tests.journeys.engines import EngineProcess, task
from tests.journeys.fleets import Lab

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def lab(engine: EngineProcess, bed: Bed, busybox_image: str) -> Lab:
    """A fleet of one host of the bed, ready for runs."""
    engine.settings = [f"default_image: {busybox_image}", "local: {docker: false}"]
    engine.start()
    lab = Lab(engine, bed)
    lab.apply(bed.hosts[0])
    return lab.ready()


@dataclass(frozen=True)
class Receiver:
    """The engine's store of files, as `upload_tree` wants it."""

    client: Client

    def missing(self, manifest: bytes) -> Sequence[str]:
        return self.client.missing_blobs(manifest)

    def receive(self, chunks: Iterable[bytes]) -> Sequence[str]:
        return self.client.send_blobs(chunks) or ()

    def keep_tree(self, manifest: bytes) -> str:
        return self.client.keep_tree(manifest)


def sent(lab: Lab, project: Path) -> str:
    """Send the project to the engine; return what names it there."""
    return upload_tree(scan_project(project), Receiver(lab.client)).digest


def run(lab: Lab, project: Path, command: str) -> bytes:
    """Run *command* with the project's files; return what it prints."""
    configuration = task(f"commands: ['{command}']\nfleets: [{lab.name}]")
    name = lab.client.submit(configuration, files=sent(lab, project)).name
    assert lab.engine.until_ended(name).status is RunStatus.DONE
    return lab.engine.output(name)


def file_images(host: BedHost) -> list[str]:
    """Return the images with project files on the host."""
    tags = (tag for image in host.docker.images.list() for tag in image.tags)
    return [tag for tag in tags if tag.startswith("dstack-jupyter-files:")]


def test_a_project_is_on_the_machine_for_each_run_and_goes_with_the_fleet(
    lab: Lab, tmp_path: Path
) -> None:
    host = lab.bed.hosts[0]
    project = write(tmp_path / "project", {"data": os.urandom(3 << 20), "src/main": "one"})
    assert run(lab, project, "cat src/main; rm -rf *") == b"one"
    write(project, {"src/main": "two"})
    assert run(lab, project, "cat src/main; wc -c < data") == b"two3145728\n"
    assert len(file_images(host)) == 2
    lab.delete()
    assert file_images(host) == []


def test_an_engine_that_is_killed_while_it_sends_files_sends_them_again(
    lab: Lab, tmp_path: Path
) -> None:
    host = lab.bed.hosts[0]
    project = write(tmp_path / "project", {"data": os.urandom(6 << 20), "main": "here"})
    host.slow("8mbit")  # 6 s for the files
    text = f"commands: ['cat main; wc -c < data']\nfleets: [{lab.name}]"
    name = lab.client.submit(task(text), files=sent(lab, project)).name
    lab.until(lambda: lab.client.run(name).status is RunStatus.PROVISIONING, "the job's place")
    time.sleep(2)
    lab.engine.kill()
    host.unslow()
    lab.engine.start()
    assert lab.engine.until_ended(name).status is RunStatus.DONE
    assert lab.engine.output(name) == b"here6291456\n"
    assert len(lab.containers(running=False)) == 1
