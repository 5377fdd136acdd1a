"""A machine of one's own: how it is reached by SSH, and what an examination of it found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dstack_engine.records.findings import Finding
from dstack_engine.records.offers import MachineShape


@dataclass(frozen=True)
class SshTarget:
    """How a machine is reached by SSH; what is None is as the user's `~/.ssh/config` says."""

    hostname: str
    port: int | None = None
    user: str | None = None
    #: An absolute path on this computer.
    identity_file: str | None = None
    #: The machine through which this one is reached.
    jump: SshTarget | None = None

    @property
    def text(self) -> str:
        """Return it as people write it: ``user@hostname:port``."""
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.hostname}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class Examination:
    """What one look into a machine found."""

    at: datetime
    findings: tuple[Finding, ...]
    #: None where it could not be found out; then nothing is placed there.
    shape: MachineShape | None = None
    #: The fingerprint of its host key, as `ssh-keygen -l` prints it: ``SHA256:…``.
    host_key: str | None = None
    #: Another one means that it was started anew.
    boot_id: str | None = None
    #: The version of its Docker Engine.
    docker: str | None = None
    #: Its address among its like, where it told: the first private one in the fleet's network.
    internal_ip: str | None = None
    #: How far its clock is ahead of this computer's, in seconds.
    clock_ahead: float | None = None

    @property
    def usable(self) -> bool:
        """Tell whether jobs can be placed there."""
        return self.shape is not None and not any(f.fatal and not f.ok for f in self.findings)
