"""This computer as a backend, and the backends by name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

from dstack_engine.backends.gpus import GpuReport
from dstack_engine.backends.local import (
    LocalBackend,
    count_cpus,
    free_disk_gb,
    memory_gb,
)
from dstack_engine.backends.registry import Registry
from dstack_engine.errors import BackendError, NoCapacity
from dstack_engine.records.instances import InstanceName
from dstack_engine.records.offers import Gpu, HostKind, Offer
from dstack_engine.testing import FakeBackend

T4 = Gpu("T4", 16.0, "nvidia", "GPU-t", (7, 5))


def backend(
    *, docker: bool = True, gives: bool = True, report: GpuReport | None = None
) -> LocalBackend:
    return LocalBackend(
        lambda: docker, docker_gives_gpus=lambda: gives, gpus=lambda: report or GpuReport()
    )


def test_with_docker_there_are_two_offers_docker_first() -> None:
    offers = list(backend().offers())
    assert [(o.id, o.host, o.price) for o in offers] == [
        ("local/docker", HostKind.DOCKER, 0.0),
        ("local/process", HostKind.PROCESS, 0.0),
    ]


def test_without_docker_there_are_plain_processes_alone() -> None:
    assert [offer.id for offer in backend(docker=False).offers()] == ["local/process"]


def test_an_offer_tells_what_this_computer_has() -> None:
    shape = next(iter(backend().offers())).shape
    assert shape.cpus == len(os.sched_getaffinity(0))
    assert 0 < shape.memory_gb <= psutil.virtual_memory().total / 2**30 + 0.1
    assert shape.disk_gb is not None
    assert shape.disk_gb > 0


def test_gpus_are_in_both_offers_when_docker_can_give_them() -> None:
    offers = list(backend(report=GpuReport((T4,))).offers())
    assert [offer.shape.gpus for offer in offers] == [(T4,), (T4,)]
    assert all(offer.remarks == () for offer in offers)


def test_docker_without_the_toolkit_has_no_gpus_and_says_so() -> None:
    docker, process = backend(gives=False, report=GpuReport((T4,))).offers()
    assert docker.shape.gpus == ()
    assert docker.remarks == (
        "its GPUs are not given to containers: "
        "the Docker Engine lacks the NVIDIA Container Toolkit",
    )
    assert process.shape.gpus == (T4,)
    assert process.remarks == ()


def test_docker_is_not_asked_about_gpus_that_are_not_there() -> None:
    def asked() -> bool:
        raise AssertionError("nobody should ask")

    found = list(LocalBackend(lambda: True, docker_gives_gpus=asked, gpus=GpuReport).offers())
    assert found[0].remarks == ()


def test_what_nvidia_smi_could_not_tell_is_beside_the_offer() -> None:
    report = GpuReport(remarks=("its GPUs are not known: why",), failed=True)
    assert next(iter(backend(report=report).offers())).remarks == report.remarks


def test_it_rents_only_itself() -> None:
    mine = backend()
    with pytest.raises(NoCapacity, match="local has no aws/g5 left"):
        mine.create(
            Offer(**{**vars(next(iter(mine.offers()))), "id": "aws/g5", "backend": "aws"}),
            InstanceName("x"),
        )


# --- limits ---------------------------------------------------------------------------------------


def test_a_quota_of_our_group_of_processes_bounds_the_cpus(tmp_path: Path) -> None:
    have = len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert count_cpus(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert count_cpus(tmp_path) == have
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert count_cpus(tmp_path) == 1
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert count_cpus(tmp_path) == have


def test_a_limit_of_our_group_of_processes_bounds_the_memory(tmp_path: Path) -> None:
    whole = memory_gb(tmp_path)
    (tmp_path / "memory.max").write_text(f"{1 << 30}\n")
    assert memory_gb(tmp_path) == 1.0
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_gb(tmp_path) == whole


def test_the_disk_of_a_folder_that_is_not_there_is_that_of_the_next_one(tmp_path: Path) -> None:
    there = free_disk_gb(tmp_path / "no" / "such", tmp_path / "nor" / "this")
    assert there == pytest.approx(free_disk_gb(tmp_path, tmp_path), abs=1.0)


# --- the registry ---------------------------------------------------------------------------------


class Silent(FakeBackend):
    """A backend whose cloud does not answer."""

    def offers(self) -> Iterable[Offer]:
        raise BackendError("the network is down")


def test_one_silent_backend_does_not_hide_the_others_offers() -> None:
    registry = Registry([Silent("far"), backend()])
    offers, remarks = registry.list_offers()
    assert [offer.id for offer in offers] == ["local/docker", "local/process"]
    assert remarks == ["far did not answer: the network is down"]


def test_backends_are_found_by_name_in_their_order() -> None:
    mine, fake = backend(), FakeBackend()
    registry = Registry([mine, fake])
    assert list(registry) == ["local", "fake"]
    assert registry["fake"] is fake
    assert "aws" not in registry
