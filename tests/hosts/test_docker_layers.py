"""Project files as layers over a job's image: what arrives, what travels, what stays behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dstack_engine.errors import DiskFull
from dstack_engine.files.blobs import BlobStore
from dstack_engine.files.stored import StoredFiles
from dstack_engine.files.tree import scan_project
from dstack_engine.files.uploads import upload_tree
from dstack_engine.home import Home
from dstack_engine.hosts import docker_layers, docker_wire
from dstack_engine.hosts.base import ContainerSpec
from dstack_engine.hosts.docker import DockerHost
from dstack_engine.hosts.docker_layers import REPOSITORY, LayeredImages
from dstack_engine.hosts.logs import LogReader
from tests.files.projects import write
from tests.hosts import images
from tests.hosts.engines import Engine
from tests.hosts.fixtures import MakeDockerd

pytestmark = pytest.mark.docker


@dataclass
class Machine:
    """A Docker Engine as one far away is used: files go there as layers."""

    url: str
    image: str
    folder: Path
    sent: list[int] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        self.home = Home(self.folder / "home").make()
        self.store = BlobStore(self.home)
        self.project = self.folder / "project"
        self.layers = LayeredImages(self.url, self.home.id)
        self.host = DockerHost(self.url, layers=self.layers)

    def files(self, **files: str | bytes) -> StoredFiles:
        """Write these files into the project, and keep it."""
        write(self.project, {name.replace("__", "/"): said for name, said in files.items()})
        return self.kept()

    def kept(self) -> StoredFiles:
        """Keep the project as it is."""
        return self.store.files(upload_tree(scan_project(self.project), self.store).digest)

    def run(self, script: str, files: StoredFiles, **options: object) -> str:
        """Run *script* in a new container; return what it prints."""
        self.runs += 1
        name = f"layers-{self.home.id}-{self.runs}"
        log = self.folder / name
        spec = ContainerSpec(
            name, {"dstack-test": self.home.id}, script, image=self.image, **options
        )  # type: ignore[arg-type]
        self.host.start(spec, files, log)
        self.host.attend(name, log)
        return b"".join(frame.payload for frame in LogReader(log).read()).decode()

    def image_names(self) -> list[str]:
        """Return the names of the images with files of this home."""
        return [name for image in self.layers._images() for name in image["RepoTags"] or []]


@pytest.fixture
def machine(
    docker_engine: Engine, python_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machine]:
    monkeypatch.setattr(docker_layers, "SMALLEST", 0)
    machine = Machine(docker_engine.host, python_image, tmp_path)
    _count_what_is_sent(machine, monkeypatch)
    yield machine
    for name in machine.host.list_containers({"dstack-test": machine.home.id}):
        machine.host.remove(name)
    machine.layers.remove_all()
    assert machine.image_names() == []


def _count_what_is_sent(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = docker_wire._ChunkedBody._raw_send

    def counting(self: docker_wire._ChunkedBody, data: bytes) -> None:
        machine.sent[-1:] = [sum(machine.sent[-1:]) + len(data)]
        real(self, data)

    monkeypatch.setattr(docker_wire._ChunkedBody, "_raw_send", counting)


def test_a_second_run_sends_only_what_has_changed(machine: Machine) -> None:
    noise = os.urandom(3 << 20)
    first = machine.files(large=noise, src__main="1", src__old="gone", old__deep__a="gone too")
    assert machine.run("cat src/main; find . -type f | wc -l", first) == "14\n"
    (machine.project / "src/old").unlink()
    (machine.project / "old/deep/a").unlink()
    (machine.project / "old/deep").rmdir()
    (machine.project / "old").rmdir()
    second = machine.files(src__main="2")
    machine.sent[:] = [0]
    assert machine.run("cat src/main; find . -type f | sort", second) == "2./large\n./src/main\n"
    assert machine.sent[0] < 20_000
    machine.sent[:] = [0]
    assert machine.run("cat src/main", second) == "2"
    assert machine.sent[0] == 0


def test_what_a_run_writes_reaches_no_other(machine: Machine) -> None:
    files = machine.files(a="1")
    assert machine.run("echo 2 > a; rm -rf *; ls | wc -l", files) == "0\n"
    assert machine.run("cat a", files) == "1"


def test_results_can_be_read_from_a_container_with_layers(machine: Machine) -> None:
    files = machine.files(a="1")
    machine.run("echo result > out", files)
    chunks = machine.host.read_files(f"layers-{machine.home.id}-1", "out")
    assert b"result" in b"".join(chunks)


def test_programs_and_symlinks_arrive_as_they_are(machine: Machine) -> None:
    files = machine.files(go="#!/bin/sh\necho ran")
    (machine.project / "go").chmod(0o755)
    (machine.project / "link").symlink_to("go")
    files = machine.kept()
    assert machine.run("./link; id -u; stat -c '%u %a' go", files) == "ran\n0\n0 755\n"


def test_an_image_without_a_shell_gets_its_files_too(machine: Machine, busybox_image: str) -> None:
    machine.image = busybox_image
    files = machine.files(a="1")
    assert machine.run("a", files, entrypoint=("cat",)) == "1"


def test_a_container_with_a_user_gets_its_files_whole_and_as_its_own(machine: Machine) -> None:
    files = machine.files(a="1")
    assert machine.run("id -u; stat -c %u a", files, user="1234") == "1234\n1234\n"
    assert machine.image_names() == []


def test_names_that_a_layer_means_otherwise_are_sent_whole(machine: Machine) -> None:
    (machine.project / "sub").mkdir(parents=True)
    (machine.project / "sub/.wh.a").write_text("kept")
    assert machine.run("cat sub/.wh.a", machine.files(a="1")) == "kept"
    assert machine.image_names() == []
    (machine.project / "sub/.wh.a").unlink()
    assert machine.run("cat a", machine.files(a="1")) == "1"
    assert len(machine.image_names()) == 1


def test_few_files_are_sent_whole(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_layers, "SMALLEST", 1 << 20)
    assert machine.run("cat a", machine.files(a="1")) == "1"
    assert machine.image_names() == []


def test_an_engine_that_takes_no_layers_by_name_gets_the_files_whole(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, write: object) -> None:
        raise docker_wire.APIError("no", explanation="content digest sha256:1: not found")

    monkeypatch.setattr(docker_layers.docker_wire, "load_images", refuse)
    assert machine.run("cat a", machine.files(a="1")) == "1"
    assert machine.run("cat a", machine.files(a="2")) == "2"


def test_a_beginning_that_is_gone_is_made_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = os.urandom(1 << 20)
    machine.run("true", machine.files(large=large, a="1"))
    real = machine.layers._beginnings

    def lost(below: str) -> list[docker_layers.Beginning]:
        return [replace(each, layer=f"sha256:{'0' * 64}") for each in real(below)]

    monkeypatch.setattr(machine.layers, "_beginnings", lost)
    assert machine.run("cat a", machine.files(a="2")) == "2"
    assert len(machine.image_names()) == 2


def test_several_that_start_with_the_same_files_send_them_once(machine: Machine) -> None:
    files = machine.files(large=os.urandom(4 << 20))
    spec = ContainerSpec("many", {}, "true", image=machine.image)
    machine.sent[:] = [0]
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda _: machine.layers.image_with(spec, files), range(4)))
    assert len(set(names)) == 1
    assert machine.sent[0] < 5 << 20


@pytest.mark.slow
def test_a_disk_that_is_too_small_for_the_files_is_told_of_once(
    private_dockerd: MakeDockerd, tmp_path: Path
) -> None:
    dockerd = private_dockerd(disk_mb=64)
    machine = Machine(dockerd.host, images.busybox().name, tmp_path)
    with pytest.raises(DiskFull):
        machine.run("true", machine.files(large=os.urandom(60 << 20)))


def test_when_most_has_changed_a_new_beginning_is_made(machine: Machine) -> None:
    machine.run("true", machine.files(large=os.urandom(1 << 20)))
    second = machine.files(large=os.urandom(1 << 20))
    assert machine.run("wc -c < large", second) == f"{1 << 20}\n"
    beginnings = machine.layers._beginnings(str(machine.layers._inspect(machine.image)["Id"]))  # type: ignore[index]
    assert {each.tree for each in beginnings} >= {second.digest}
    assert len(beginnings) == 2


def test_images_that_were_followed_are_removed_unless_they_are_used(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_layers, "GRACE", docker_layers.GRACE * 0)
    large = os.urandom(1 << 20)
    for number in range(4):
        machine.run("true", machine.files(large=large, a=str(number)))
        machine.host.remove(f"layers-{machine.home.id}-{number + 1}")
        time.sleep(1.1)  # images' times are in seconds
    (name,) = machine.image_names()
    assert name.startswith(REPOSITORY)
    assert machine.run("cat a", machine.kept()) == "3"


def test_files_can_be_sent_before_the_start_and_how_far_it_is_is_told(machine: Machine) -> None:
    files = machine.files(large=os.urandom(8 << 20))
    spec = ContainerSpec("later", {}, "true", image=machine.image)
    told: list[tuple[str, float | None, str]] = []
    machine.host.send_files(spec, files, lambda *words: told.append(words))
    assert {step for step, _, _ in told} == {"sending"}
    assert told[0][2].endswith("/8.0 MB")
    assert told[0][2].startswith("files: ")
    assert [fraction for _, fraction, _ in told] == sorted(fraction for _, fraction, _ in told)  # type: ignore[type-var]
    machine.sent[:] = [0]
    assert machine.run("wc -c < large", files) == f"{8 << 20}\n"
    assert machine.sent[0] == 0


def test_a_start_that_is_repeated_sends_nothing_again(machine: Machine) -> None:
    files = machine.files(a="1")
    machine.run("cat a", files)
    machine.sent[:] = [0]
    machine.runs -= 1
    assert machine.run("cat a", files) == "1"
    assert machine.sent[0] == 0
