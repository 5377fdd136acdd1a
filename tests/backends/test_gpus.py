"""The GPUs of this computer, as an nvidia-smi tells them.

The programs here stand in for nvidia-smi and print what real ones print; the real one is asked
where there is one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dstack_engine.backends.gpus import (
    KEEP,
    KEEP_FAILURE,
    GpuReader,
    GpuReport,
    parse_gpus,
)
from dstack_engine.records.gpu_models import nominal_memory, short_name
from dstack_engine.records.offers import Gpu

H200 = "GPU-5f1c, NVIDIA H200, 143771, Disabled, 9.0\n"


def program(folder: Path, body: str) -> str:
    """Return the path of a program that stands in for nvidia-smi and counts its calls."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\necho call >> {folder}/calls\n{body}\n")
    path.chmod(0o755)
    return str(path)


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200NVL"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100"),
        ("NVIDIA H100 NVL", "H100NVL"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H100"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("A100-SXM-80GB", "A100"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("GRID T4-16Q", "T4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla V100-PCIE-32GB", "V100"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX4090Laptop"),
        ("NVIDIA GeForce RTX 3070 Ti", "RTX3070Ti"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX4070TiSUPER"),
        ("NVIDIA GeForce RTX 2070 Super", "RTX2070SUPER"),
        ("NVIDIA GeForce GTX 1080 Ti", "GTX1080Ti"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTXPRO6000"),
        ("Quadro RTX 6000", "RTX6000"),
        ("NVIDIA TITAN RTX", "TITANRTX"),
    ],
)
def test_names_become_those_that_configurations_use(full: str, short: str) -> None:
    assert short_name(full) == short


@pytest.mark.parametrize(
    ("name", "mib", "gb"),
    [
        ("H200", 143771, 141),
        ("H100", 81559, 80),
        ("A100", 40960, 40),
        ("A100", 81920, 80),
        ("L4", 23034, 24),
        ("A10G", 23028, 24),
        ("L40S", 46068, 48),
        ("T4", 15360, 16),
        ("T4", 15109, 16),
        ("V100", 16160, 16),
        ("RTX4090", 24564, 24),
        ("B200", 183359, 180),
        ("GTX1080Ti", 11178, 11),
    ],
)
def test_memory_is_what_the_model_is_sold_with(name: str, mib: int, gb: float) -> None:
    assert nominal_memory(name, mib) == gb


def test_each_line_is_a_gpu() -> None:
    text = H200 + "GPU-77aa, Tesla T4, 15360, [N/A], 7.5\n"
    assert parse_gpus(text) == GpuReport(
        (
            Gpu("H200", 141.0, "nvidia", "GPU-5f1c", (9, 0)),
            Gpu("T4", 16.0, "nvidia", "GPU-77aa", (7, 5)),
        )
    )


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        (
            "GPU-1, NVIDIA H100 PCIe, 81559, Enabled, 9.0",
            "one H100 is not offered: it is split into parts (MIG)",
        ),
        (
            "GPU-1, NVIDIA GB10, [N/A], [N/A], 12.1",
            "one GPU is not offered, nvidia-smi says of it: GPU-1, NVIDIA GB10, [N/A], [N/A], 12.1",
        ),
        (
            "Unable to determine the device handle for GPU 0000:01:00.0",
            "one GPU is not offered, nvidia-smi says of it: "
            "Unable to determine the device handle for GPU 0000:01:00.0",
        ),
    ],
)
def test_a_gpu_that_cannot_be_assigned_is_remarked(line: str, remark: str) -> None:
    assert parse_gpus(f"{H200}{line}\n").remarks == (remark,)
    assert len(parse_gpus(f"{H200}{line}\n").gpus) == 1


def test_the_program_is_asked_and_its_answer_kept_for_a_while(tmp_path: Path) -> None:
    now = [100.0]
    reader = GpuReader(program(tmp_path, f"printf '{H200}'"), clock=lambda: now[0])
    assert reader().gpus[0].name == "H200"
    now[0] += KEEP - 1
    reader()
    assert calls(tmp_path) == 1
    now[0] += 2
    reader()
    assert calls(tmp_path) == 2


def test_without_the_program_there_is_no_gpu_and_nothing_to_say(tmp_path: Path) -> None:
    assert GpuReader(str(tmp_path / "nvidia-smi"))() == GpuReport()


def test_a_driver_without_a_device_is_no_failure(tmp_path: Path) -> None:
    reader = GpuReader(program(tmp_path, "echo 'No devices were found'; exit 6"))
    assert reader() == GpuReport()


def test_a_program_that_fails_is_told_with_its_words_and_asked_again_soon(tmp_path: Path) -> None:
    now = [100.0]
    words = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."
    reader = GpuReader(program(tmp_path, f"echo '{words}'; exit 9"), clock=lambda: now[0])
    assert reader().remarks == (
        f"its GPUs are not known: nvidia-smi failed (exit code 9): {words}",
    )
    reader()
    assert calls(tmp_path) == 1
    now[0] += KEEP_FAILURE + 1
    reader()
    assert calls(tmp_path) == 2


def test_a_program_that_hangs_is_given_up(tmp_path: Path) -> None:
    reader = GpuReader(program(tmp_path, "exec sleep 60"), timeout=0.2)
    assert reader().remarks == ("its GPUs are not known: nvidia-smi did not answer in 0.2 s",)


def test_an_old_driver_that_knows_no_capability_is_asked_without(tmp_path: Path) -> None:
    body = (
        'case "$*" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\''
        "; exit 2;; *) echo 'GPU-1, Tesla T4, 15109, [N/A]';; esac"
    )
    assert GpuReader(program(tmp_path, body))().gpus == (
        Gpu("T4", 16.0, "nvidia", "GPU-1", (7, 5)),
    )


def test_the_real_program_names_gpus_with_memory_and_uuid() -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no GPU")
    report = GpuReader()()
    assert report.gpus, report.remarks
    for gpu in report.gpus:
        assert gpu.uuid is not None
        assert gpu.uuid.startswith("GPU-")
        assert gpu.memory_gb >= 1
        assert gpu.compute_capability is not None
        assert " " not in gpu.name
