"""Commands that mend a machine, ready to be copied: as its system and its user need them.

Used by `machine_examination` and what it calls. Package names are those of the distributions in
2025; the NVIDIA Container Toolkit comes from NVIDIA's own repository.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_TOOLKIT = "https://nvidia.github.io/libnvidia-container"
_KEYRING = "/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg"


@dataclass(frozen=True)
class Fixes:
    """The commands for one machine and the user who logged in there."""

    user: str = "$USER"
    #: Whether the user is root, who needs no `sudo`.
    root: bool = False
    #: The programs of the system that are there: ``apt-get``, ``dnf``, ``systemctl``.
    programs: frozenset[str] = field(default_factory=frozenset)

    @property
    def sudo(self) -> str:
        """Return ``sudo `` where it is needed."""
        return "" if self.root else "sudo "

    def install_docker(self) -> str:
        """Return what installs a Docker Engine and lets the user use it."""
        if "apt-get" in self.programs:
            install = f"{self.sudo}apt-get update && {self.sudo}apt-get install -y docker.io"
        else:
            install = f"curl -fsSL https://get.docker.com | {self.sudo}sh"
        return " && ".join([install, self.start_docker(), *([] if self.root else [self.join()])])

    def start_docker(self) -> str:
        """Return what starts the Docker Engine, now and with the machine."""
        if "systemctl" in self.programs:
            return f"{self.sudo}systemctl enable --now docker"
        return f"{self.sudo}service docker start"

    def restart_docker(self) -> str:
        """Return what starts the Docker Engine anew."""
        if "systemctl" in self.programs:
            return f"{self.sudo}systemctl restart docker"
        return f"{self.sudo}service docker restart"

    def join(self) -> str:
        """Return what lets the user use the Docker Engine."""
        return f"{self.sudo}usermod -aG docker {self.user}"

    def install_toolkit(self) -> str:
        """Return what installs the NVIDIA Container Toolkit and tells Docker of it."""
        if "apt-get" in self.programs:
            install = (
                f"curl -fsSL {_TOOLKIT}/gpgkey | {self.sudo}gpg --dearmor -o {_KEYRING} && "
                f"curl -fsSL {_TOOLKIT}/stable/deb/nvidia-container-toolkit.list | "
                f"sed 's#deb https://#deb [signed-by={_KEYRING}] https://#' | "
                f"{self.sudo}tee /etc/apt/sources.list.d/nvidia-container-toolkit.list && "
                f"{self.sudo}apt-get update && "
                f"{self.sudo}apt-get install -y nvidia-container-toolkit"
            )
        else:
            program = next((name for name in ("zypper", "yum") if name in self.programs), "dnf")
            install = (
                f"curl -fsSL {_TOOLKIT}/stable/rpm/nvidia-container-toolkit.repo | "
                f"{self.sudo}tee /etc/yum.repos.d/nvidia-container-toolkit.repo && "
                f"{self.sudo}{program} install -y nvidia-container-toolkit"
            )
        return f"{install} && {self.configure_toolkit()}"

    def configure_toolkit(self) -> str:
        """Return what tells Docker of a toolkit that is installed."""
        return (
            f"{self.sudo}nvidia-ctk runtime configure --runtime=docker && {self.restart_docker()}"
        )

    def allow_forwarding(self) -> str:
        """Return what has the SSH server forward sockets and ports."""
        return (
            "printf 'AllowTcpForwarding yes\\nAllowStreamLocalForwarding yes\\n' | "
            f"{self.sudo}tee /etc/ssh/sshd_config.d/00-forwarding.conf && "
            f"{self.sudo}systemctl reload sshd"
        )

    def set_clock(self) -> str:
        """Return what has the clock set by others on the network."""
        return f"{self.sudo}timedatectl set-ntp true"

    def free_disk(self) -> str:
        """Return what gives back the room of images and containers that nobody uses."""
        return "docker system prune"
