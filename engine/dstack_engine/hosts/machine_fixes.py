"""Commands that mend a machine, ready to be copied: as its system and its user need them.

Used by `machine_examination` and what it calls. Package names are those of the distributions in
2025; the NVIDIA Container Toolkit comes from NVIDIA's own repository.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from dstack_engine.records.findings import Finding

_TOOLKIT = "https://nvidia.github.io/libnvidia-container"
_SUDO = re.compile(r"\bsudo ")
_KEYRING = "/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg"


@dataclass(frozen=True)
class Fixes:
    """The commands for one machine and the user who logged in there; see `without_sudo`."""

    user: str = "$USER"
    #: Whether the user is root, who may use Docker as it is.
    root: bool = False
    #: The programs of the system that are there: ``apt-get``, ``dnf``, ``systemctl``.
    programs: frozenset[str] = field(default_factory=frozenset)

    def install_docker(self) -> str:
        """Return what installs a Docker Engine and lets the user use it."""
        if "apt-get" in self.programs:
            install = "sudo apt-get update && sudo apt-get install -y docker.io"
        else:
            install = "curl -fsSL https://get.docker.com | sudo sh"
        return " && ".join([install, self.start_docker(), *([] if self.root else [self.join()])])

    def start_docker(self) -> str:
        """Return what starts the Docker Engine, now and with the machine."""
        if "systemctl" in self.programs:
            return "sudo systemctl enable --now docker"
        return "sudo service docker start"

    def restart_docker(self) -> str:
        """Return what starts the Docker Engine anew."""
        if "systemctl" in self.programs:
            return "sudo systemctl restart docker"
        return "sudo service docker restart"

    def join(self) -> str:
        """Return what lets the user use the Docker Engine."""
        return f"sudo usermod -aG docker {self.user}"

    def install_toolkit(self) -> str:
        """Return what installs the NVIDIA Container Toolkit and tells Docker of it."""
        if "apt-get" in self.programs:
            install = (
                f"curl -fsSL {_TOOLKIT}/gpgkey | sudo gpg --dearmor -o {_KEYRING} && "
                f"curl -fsSL {_TOOLKIT}/stable/deb/nvidia-container-toolkit.list | "
                f"sed 's#deb https://#deb [signed-by={_KEYRING}] https://#' | "
                "sudo tee /etc/apt/sources.list.d/nvidia-container-toolkit.list && "
                "sudo apt-get update && "
                "sudo apt-get install -y nvidia-container-toolkit"
            )
        else:
            program = "yum" if "dnf" not in self.programs else "dnf"
            install = (
                f"curl -fsSL {_TOOLKIT}/stable/rpm/nvidia-container-toolkit.repo | "
                "sudo tee /etc/yum.repos.d/nvidia-container-toolkit.repo && "
                f"sudo {program} install -y nvidia-container-toolkit"
            )
        return f"{install} && {self.configure_toolkit()}"

    def configure_toolkit(self) -> str:
        """Return what tells Docker of a toolkit that is installed."""
        return f"sudo nvidia-ctk runtime configure --runtime=docker && {self.restart_docker()}"

    def allow_forwarding(self) -> str:
        """Return what has the SSH server forward sockets and ports."""
        service = "ssh" if "apt-get" in self.programs else "sshd"
        return (
            "printf 'AllowTcpForwarding yes\\nAllowStreamLocalForwarding yes\\n' | "
            "sudo tee /etc/ssh/sshd_config.d/00-forwarding.conf && "
            f"sudo systemctl reload {service}"
        )

    def set_clock(self) -> str:
        """Return what has the clock set by others on the network."""
        return "sudo timedatectl set-ntp true"

    def free_disk(self) -> str:
        """Return what gives back the room of images and containers that nobody uses."""
        return "docker system prune"


def without_sudo(finding: Finding) -> Finding:
    """Return the finding for root, who needs no `sudo` and may have none."""
    return finding if finding.fix is None else replace(finding, fix=_SUDO.sub("", finding.fix))
