"""How a service stands: its wanted number of replicas, those that leave, those that rest.

Part of a `Run` whose configuration is a service; written by the run loop alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dstack_engine.records.jobs import JobId, JobReason


@dataclass(frozen=True)
class Retiring:
    """A replica's job that gets no new requests and ends once it has answered the old ones."""

    job: JobId
    since: datetime
    #: Why it leaves: `scaled_down`, `replaced` by a newer deployment, stopped by its user.
    why: JobReason
    #: It has answered everything, or its time for that is over: its container is to end.
    drained: bool = False


@dataclass(frozen=True)
class Rest:
    """A replica that failed and is started again at `until`: the pause grows with every crash."""

    replica: int
    until: datetime
    #: The last failure in a sentence, with its facts.
    why: str


@dataclass(frozen=True)
class ServiceState:
    """What the run loop has decided for a service."""

    #: As many replicas as there are to be now.
    desired: int
    #: Grows by one each time the service is given a new configuration.
    deployment: int = 1
    retiring: tuple[Retiring, ...] = ()
    resting: tuple[Rest, ...] = ()
    #: Since when the load has asked for more, or for fewer, replicas than `desired`.
    above_since: datetime | None = None
    below_since: datetime | None = None
    scaled_at: datetime | None = None
    #: The last scaling in a sentence: ``1 → 3: 25 requests a second, 10 for each replica``.
    scaled_why: str | None = None
