"""What the engine tells the gateway, and what the gateway reports back.

A `Publication` is the whole of what is published: it is told anew with every change, kept by the
gateway on disk, and loaded again when the gateway restarts alone. A `GatewayReport` is what was
seen of the traffic; it is never stored. Both travel as JSON over the private control socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dstack_engine.enums import StrEnum
from dstack_engine.spec.services import Probe, RateLimit, ServedModel

#: Where the gateway listens if nothing else is said; the next free port if that is taken.
GATEWAY_PORT = 4180


@dataclass(frozen=True)
class PublishedReplica:
    """A replica that runs: where it is, and whether it is still given new requests."""

    #: The job's id, e.g. ``chat-0-1/3``.
    job: str
    host: str
    port: int
    #: Gets nothing new; what it is answering it may finish.
    draining: bool = False


@dataclass(frozen=True)
class PublishedService:
    """A service as the gateway needs to know it."""

    run: str
    run_id: str
    auth: bool = True
    model: ServedModel | None = None
    probes: tuple[Probe, ...] = ()
    rate_limits: tuple[RateLimit, ...] = ()
    replicas: tuple[PublishedReplica, ...] = ()
    #: Whether requests wait for a replica while there is none: one is being started, or will be.
    #: False once the service is being stopped.
    holds: bool = True
    #: Why there is no replica, to be told to whom is not held: ``replica 0 failed: exit code 1``.
    trouble: str | None = None


@dataclass(frozen=True)
class Publication:
    """Everything that is published."""

    #: Grows with every change, so that a late telling does not undo a newer one.
    version: int
    services: tuple[PublishedService, ...] = ()
    #: SHA-256, in hex, of the tokens that are let through.
    tokens: tuple[str, ...] = field(default=(), repr=False)


class ReplicaState(StrEnum):
    """How the gateway sees a replica."""

    PROBING = "probing"  #: never answered its probe yet
    READY = "ready"  #: is given requests
    EJECTED = "ejected"  #: was ready, fails now; tried again after a while
    DRAINING = "draining"  #: gets nothing new


@dataclass(frozen=True)
class ReplicaReport:
    """One replica, as the gateway sees it."""

    job: str
    state: ReplicaState
    #: Requests that it is answering now, open WebSockets among them.
    in_flight: int = 0
    #: Requests answered since the gateway knows it, and those of them that failed.
    requests: int = 0
    errors: int = 0
    #: Why it is not ready: ``connection refused``, ``the probe / answers 503``.
    trouble: str | None = None


@dataclass(frozen=True)
class Load:
    """The load of a service over one window."""

    #: Length of the window, in seconds.
    window: int
    #: Requests that arrived in it (wrong tokens and 404s of the gateway's own are no load).
    arrivals: int = 0
    #: Requests that arrived earlier and were still held or being answered in it.
    carried: int = 0
    #: Requests held or being answered, averaged over the window.
    concurrency: float = 0.0


@dataclass(frozen=True)
class ServiceReport:
    """One service's traffic, as the gateway sees it."""

    run: str
    run_id: str
    replicas: tuple[ReplicaReport, ...] = ()
    #: Being answered now, and held for a replica now.
    in_flight: int = 0
    held: int = 0
    loads: tuple[Load, ...] = ()
    #: Requests a second, over the last ten seconds.
    rps: float = 0.0
    #: Time to the first byte of the answer over the last minute, in seconds; None without any.
    p50: float | None = None
    p95: float | None = None
    #: Since the gateway knows it: answered, and of them with 5xx or cut.
    requests: int = 0
    errors: int = 0


@dataclass(frozen=True)
class ModelUsage:
    """What was asked of a model by one token (its first eight hex digits; "" where auth is off)."""

    model: str
    token: str
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    #: Answers whose engine told no usage, so that their tokens are not counted.
    uncounted: int = 0
    #: Sums in seconds; divided by `requests` they are means.
    first_token_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class GatewayReport:
    """What the gateway saw; sent once a second, and at once when something must be acted on."""

    #: Version of the publication that it serves.
    version: int
    pid: int
    #: Where it listens, on loopback.
    port: int
    services: tuple[ServiceReport, ...] = ()
    models: tuple[ModelUsage, ...] = ()
