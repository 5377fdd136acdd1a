"""Machines for tests of looks into them: what real ones print, and this computer as one of them.

The outputs of `nvidia-smi`, `amd-smi` and `rocm-smi` are as these programs print them on the
machines named, with their ids shortened.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dstack_engine.hosts.machine_script import Answers, read_answers

MARK = "a1b2"

#: Eight H100 of an HGX board, driver 550.
EIGHT_H100 = tuple(
    f"GPU-{n}5f1c0e2-8d1b, NVIDIA H100 80GB HBM3, 81559, 4, Disabled, 550.54.15, {n}, 9.0, 0"
    for n in range(8)
)
#: A workstation with two different ones.
MIXED = (
    "GPU-aa, NVIDIA GeForce RTX 4090, 24564, 612, [N/A], 535.183.01, 0, 8.9, [N/A]",
    "GPU-bb, NVIDIA RTX A6000, 49140, 6, [N/A], 535.183.01, 1, 8.6, 3",
)
#: An A100 that is split, beside one that is not.
SPLIT = (
    "GPU-cc, NVIDIA A100-SXM4-80GB, 81920, 0, Enabled, 550.54.15, 0, 8.0, 0",
    "GPU-dd, NVIDIA A100-SXM4-80GB, 81920, 0, Disabled, 550.54.15, 1, 8.0, 0",
)
#: A GPU that has fallen off, beside one that has not.
BROKEN = (
    "GPU-ee, NVIDIA L4, 23034, 1, [N/A], 550.54.15, 0, 8.9, 0",
    "[Unknown Error], NVIDIA L4, [Unknown Error], [Unknown Error], [N/A], 550.54.15, 1, 8.9, 0",
)
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch"
NOT_RUNNING = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running."
)
BLOCKED = "Failed to initialize NVML: GPU access blocked by the operating system"

_DISK_GB = 1 << 20


def printed(**parts: str | tuple[str, ...]) -> str:
    """Return what the script prints with these parts; ``nvidia_use`` is the part nvidia-use."""
    lines = ["Welcome to Ubuntu 22.04.4 LTS", "a1b2x system UID=0"]
    for name, said in parts.items():
        for line in (said,) if isinstance(said, str) else said:
            lines.append(f"{MARK} {name.replace('__', '.').replace('_', '-')} {line}")
    return "\n".join([*lines, f"{MARK} over 0"])


def answers(**parts: str | tuple[str, ...]) -> Answers:
    """Return the answers that a machine gives, which is well unless *parts* say otherwise."""
    given: dict[str, str | tuple[str, ...]] = {
        "system": (
            'PRETTY_NAME="Ubuntu 22.04.4 LTS"',
            "KERNEL=Linux 5.15.0-105-generic",
            "ARCH=x86_64",
            "USER=ann",
            "UID=1000",
            "BOOT=94cc1aad",
            "CPUS=64",
            "MEMORY_KB=264212084",
            "CONNECTION=10.0.0.9 50122 10.0.0.5 22",
        ),
        "disk": f"/dev/sda1 {900 * _DISK_GB} {400 * _DISK_GB} {500 * _DISK_GB} 45% /var/lib/docker",
        "docker": ("SOCKET=yes", "WRITABLE=yes", "HAS=dockerd", "HAS=apt-get", "HAS=systemctl"),
        "network": (
            "docker0 172.17.0.1 10000",
            "eno1 10.0.0.5 10000",
            "ib0 192.168.7.5 200000",
            "tun0 203.0.113.7",
        ),
        "nvidia__end": "127",
    }
    return read_answers(printed(**given | parts), MARK)


@dataclass
class Here:
    """This computer as a machine, reached by no more than a shell; keeps `MachineLink`.

    Programs in *folder* go before this computer's own.
    """

    folder: Path
    docker_url: str
    #: Why its ports cannot be forwarded.
    forwarding: str | None = None
    shell: str = "sh"

    def run_script(self, text: str, timeout: float) -> str:
        """Run *text*, as somebody who is not root where the test says so."""
        done = subprocess.run(
            self.shell.split(),
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", **self.connection},
            check=False,
        )
        return done.stdout

    def try_forward(self, address: str, port: int) -> str | None:
        """Return what the test says."""
        return self.forwarding

    @property
    def connection(self) -> dict[str, str]:
        """Return what an SSH server tells a session of itself."""
        return {"SSH_CONNECTION": "127.0.0.1 50000 127.0.0.1 22"}

    def program(self, name: str, body: str) -> None:
        """Put a program there."""
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
