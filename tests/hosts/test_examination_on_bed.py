"""Looks into real machines of the bed: GPUs, rights, forbidden forwards, other engines, files."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_engine.errors import ImageUnavailable
from dstack_engine.files.blobs import BlobStore
from dstack_engine.files.tree import scan_project
from dstack_engine.files.uploads import upload_tree
from dstack_engine.home import Home
from dstack_engine.hosts.base import ContainerSpec, Limits
from dstack_engine.hosts.logs import LogReader
from dstack_engine.hosts.remote import RemoteMachines
from dstack_engine.records.findings import Finding
from dstack_engine.records.instances import Instance
from dstack_engine.records.machines import Examination
from dstack_engine.records.offers import Gpu
from tests.contracts.hosts import a_machine
from tests.files.projects import write
from tests.hosts.bed import Bed
from tests.hosts.bed_host import BedHost
from tests.hosts.engines import Engine

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def box(bed: Bed) -> BedHost:
    return bed.hosts[1]


@pytest.fixture
def machines(home: Path) -> Iterator[RemoteMachines]:
    one = RemoteMachines(Home(home).make())
    yield one
    one.close()


@pytest.fixture
def instance(box: BedHost) -> Instance:
    return a_machine(box.target())


def by_subject(found: Examination) -> dict[str, Finding]:
    return {finding.subject: finding for finding in found.findings}


def test_a_sound_machine_is_looked_into_quickly_and_nothing_is_wrong(
    machines: RemoteMachines, instance: Instance, box: BedHost
) -> None:
    machines.examine(instance)
    began = time.monotonic()
    found = machines.examine(instance)
    assert time.monotonic() - began < 10
    assert [finding for finding in found.findings if not finding.ok] == []
    assert found.internal_ip == box.address
    assert found.clock_ahead is not None
    assert abs(found.clock_ahead) < 1
    assert {"ssh", "docker", "claim", "gpus", "disk", "clock", "ports"} <= set(by_subject(found))


def test_gpus_are_found_given_to_a_trial_and_to_a_job(
    machines: RemoteMachines, instance: Instance, box: BedHost, home: Path, busybox_image: str
) -> None:
    uuids = box.give_gpus(2)
    found = machines.examine(instance)
    assert found.shape is not None
    assert found.shape.gpus == tuple(Gpu("H100", 80.0, "nvidia", uuid, (9, 0)) for uuid in uuids)
    assert by_subject(found)["gpus"].text == "2 × H100 (80 GB), driver 550.54.15"
    script = 'echo "$NVIDIA_VISIBLE_DEVICES"'
    spec = ContainerSpec("gpu", {}, script, image=busybox_image, limits=Limits(gpus=(uuids[1],)))
    assert output_of(machines, instance, spec, home) == f"{uuids[1]}\n"
    assert box.containers() == ["gpu"]


def test_a_machine_that_lies_about_its_gpus_offers_none_of_them(
    machines: RemoteMachines, instance: Instance, box: BedHost
) -> None:
    box.give_gpus(2, toolkit=False)
    found = machines.examine(instance)
    assert found.usable
    assert found.shape is not None
    assert found.shape.gpus == ()
    finding = by_subject(found)["docker gpus"]
    assert finding.text.startswith("2 × H100 (80 GB) not offered: the Docker Engine lacks")
    assert "nvidia-ctk runtime configure --runtime=docker" in str(finding.fix)


def test_whoever_may_not_use_docker_is_told_and_seen_again_after_the_remedy(
    machines: RemoteMachines, box: BedHost
) -> None:
    instance = a_machine(box.target("bob"))
    found = machines.examine(instance)
    assert not found.usable
    assert by_subject(found)["docker"].text == "bob may not use the Docker Engine"
    assert by_subject(found)["docker"].fix == "sudo usermod -aG docker bob"
    box.execute("usermod", "-aG", "docker", "bob")
    try:
        assert machines.examine(instance).usable
    finally:
        box.execute("gpasswd", "-d", "bob", "docker")


def test_a_docker_engine_that_is_stopped_is_told_and_seen_again_when_it_runs(
    machines: RemoteMachines, instance: Instance, box: BedHost
) -> None:
    box.stop_docker()
    try:
        found = machines.examine(instance)
        assert by_subject(found)["docker"].fatal
        assert by_subject(found)["ssh"].ok
    finally:
        box.start_docker()
    assert machines.examine(instance).usable


@pytest.mark.parametrize("setting", ["AllowTcpForwarding no", "AllowStreamLocalForwarding no"])
def test_a_server_that_forwards_nothing_prevents_all_and_is_told(
    machines: RemoteMachines, instance: Instance, box: BedHost, setting: str
) -> None:
    box.sshd_says(setting)
    found = machines.examine(instance)
    assert not found.usable
    assert by_subject(found)["docker"].text == "its SSH server does not forward Docker's socket"
    fix = str(by_subject(found)["docker"].fix)
    assert "AllowTcpForwarding yes" in fix
    assert "AllowStreamLocalForwarding yes" in fix


def test_a_disk_that_is_nearly_full_is_told(
    machines: RemoteMachines, instance: Instance, box: BedHost
) -> None:
    box.fill_disk(leave_mb=2000)
    finding = by_subject(machines.examine(instance))["disk"]
    assert not finding.ok
    assert finding.text.startswith("only 2 GB")
    assert finding.fix == "docker system prune"


def test_a_second_run_of_a_large_project_sends_only_what_has_changed(
    machines: RemoteMachines,
    instance: Instance,
    box: BedHost,
    home: Path,
    tmp_path: Path,
    busybox_image: str,
) -> None:
    store = BlobStore(Home(home).make())
    project = write(tmp_path / "project", {"data": os.urandom(40 << 20), "main": "1"})
    machines.examine(instance)
    spec = ContainerSpec("one", {}, "cat main; wc -c < data", image=busybox_image)
    first = store.files(upload_tree(scan_project(project), store).digest)
    assert output_of(machines, instance, spec, home, first) == f"1{40 << 20}\n"
    write(project, {"main": "2"})
    second = store.files(upload_tree(scan_project(project), store).digest)
    box.slow("8mbit")  # 40 MB would take 40 s
    began = time.monotonic()
    spec = replace(spec, name="two")
    assert output_of(machines, instance, spec, home, second) == f"2{40 << 20}\n"
    assert time.monotonic() - began < 10
    box.unslow()
    machines.release(instance)
    assert not [i for i in box.docker.images.list() if "dstack-jupyter-files" in str(i.tags)]


def output_of(
    machines: RemoteMachines,
    instance: Instance,
    spec: ContainerSpec,
    home: Path,
    files: object = None,
) -> str:
    host, log = machines.host(instance), Home(home).logs / spec.name
    host.start(spec, files, log)  # type: ignore[arg-type]
    host.attend(spec.name, log)
    return b"".join(frame.payload for frame in LogReader(log).read()).decode()


def test_an_image_that_a_machine_cannot_pull_is_sent_from_this_computer(
    machines: RemoteMachines, instance: Instance, home: Path, own_image: str
) -> None:
    told: list[tuple[str, float | None, str]] = []
    spec = ContainerSpec("own", {}, "echo it runs", image=own_image)
    machines.host(instance).prepare(spec, lambda *words: told.append(words))
    assert machines.host(instance).has_image(own_image)
    assert told[-1][:2] == ("sent", 1.0)
    assert "sending" in {step for step, _, _ in told}
    assert output_of(machines, instance, spec, home) == "it runs\n"


def test_an_image_that_nobody_has_is_refused_with_the_registrys_words(
    machines: RemoteMachines, instance: Instance
) -> None:
    spec = ContainerSpec("none", {}, "true", image="localhost:1/nobody/has:this")
    with pytest.raises(ImageUnavailable, match="localhost:1/nobody/has:this"):
        machines.host(instance).prepare(spec, lambda *words: None)


@pytest.fixture
def own_image(docker_engine: Engine, busybox_image: str, box: BedHost) -> Iterator[str]:
    """An image that is on this computer alone."""
    name = f"own-{uuid.uuid4().hex[:8]}/image:1"
    repository, tag = name.split(":")
    docker_engine.client.images.get(busybox_image).tag(repository, tag)
    yield name
    docker_engine.client.images.remove(name)
    box.docker.images.remove(name, force=True)
