"""The hosts on machines that are reached by SSH: their Docker Engines, over forwarded sockets."""

from __future__ import annotations

from dstack_engine.hosts.base import Host
from dstack_engine.records.instances import Instance
from dstack_engine.records.machines import Examination


class RemoteMachines:
    """See `hosts.base.Machines`."""

    def examine(self, instance: Instance) -> Examination:
        raise NotImplementedError

    def ping(self, instance: Instance) -> str | None:
        raise NotImplementedError

    def host(self, instance: Instance) -> Host:
        raise NotImplementedError

    def release(self, instance: Instance) -> None:
        raise NotImplementedError

    def forget(self, instance: Instance) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End what belongs to this process only."""
