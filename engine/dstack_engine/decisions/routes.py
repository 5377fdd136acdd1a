"""At which local port each port of a job is reached. Pure.

The engine asks before a run is submitted, while its author still looks, and again when the job is
placed. Docker publishes a container's port at the local one, ssh forwards it to one on another
machine; a plain process listens on this computer itself, and a forward from another local port
leads to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dstack_engine.errors import Conflict
from dstack_engine.records.offers import HostKind
from dstack_engine.records.routes import Route
from dstack_engine.spec.ports import LARGEST_PORT, PortMapping

#: Replicas are reached at local ports from here on, which nobody needs to know: above those that
#: programs like to use, below those that Linux gives to outgoing connections (32768). Each begins
#: to look at another of so many, so that engines of several users seldom choose the same.
FIRST_REPLICA_PORT = 21_000
REPLICA_PORTS = 10_000

#: Below it, Linux lets only root listen unless told otherwise (ip_unprivileged_port_start).
FIRST_FREE_FOR_ALL = 1024


_OTHER_PORT = "have the program listen on another port"
_OWN_PORTS_HINT = "have the program listen on $DSTACK_SERVICE_PORT: each replica has its own then"


@dataclass(frozen=True)
class _Ports:
    """What is known of this computer's ports while a job's are chosen."""

    host: HostKind
    ours: Mapping[int, str]
    is_taken: Callable[[int], bool]
    lowest: int

    def holder(self, port: int) -> str | None:
        """Return who uses *port*, or None when it is free."""
        if port in self.ours:
            return f"run {self.ours[port]}"
        return "another program" if self.is_taken(port) else None

    def is_ours_to_take(self, port: int, chosen: set[int]) -> bool:
        """Tell whether *port* could be a local port that the author left to us."""
        return port >= self.lowest and port not in chosen and self.holder(port) is None


def choose_routes(
    ports: Sequence[PortMapping],
    host: HostKind,
    *,
    ours: Mapping[int, str],
    is_taken: Callable[[int], bool],
    lowest_port: int = 1,
) -> tuple[Route, ...]:
    """Return a route for each of *ports*, in their order.

    `*` is the same number as the container's port, or the next free one above. *ours* tells which
    run uses a port, *is_taken* whether anything does; *lowest_port* is the lowest at which whoever
    listens there may (1 for root, and so for this computer's Docker Engine). Raises `Conflict` for
    a port that cannot be had, naming who has it and what could be written instead.
    """
    known = _Ports(host, ours, is_taken, lowest_port)
    _refuse_doubles(ports)
    chosen: dict[int, Route] = {}
    # What the author named comes first, so that no `*` takes it away.
    for index, port in sorted(enumerate(ports), key=lambda item: item[1].local_port is None):
        if host is HostKind.PROCESS:
            _check_own_port(port, known)
        others = [other for other in ports if other is not port]
        taken_here = _taken_by(chosen.values(), others, ports, host)
        local = port.local_port
        if local is None:
            local = _next_free(port, known, taken_here)
        else:
            _check_local_port(port, local, known, taken_here)
        chosen[index] = Route(local_port=local, container_port=port.container_port)
    return tuple(chosen[index] for index in range(len(ports)))


def choose_service_routes(
    port: int,
    host: HostKind,
    *,
    own_ports: bool,
    seed: int,
    ours: Mapping[int, str],
    is_taken: Callable[[int], bool],
    lowest_port: int = 1,
) -> tuple[Route, ...]:
    """Return the one route of a replica, at which the gateway reaches it.

    In Docker the replica listens on its service's *port*, published at a free local one. A plain
    process listens on this computer itself: on a free port that it is told (*own_ports*), else
    on *port*. *seed* says where to begin looking for a free one. Raises `Conflict` where none can
    be had; see `choose_routes` for the rest.
    """
    known = _Ports(host, ours, is_taken, lowest_port)
    if host is HostKind.PROCESS and not own_ports:
        _check_own_port(PortMapping(container_port=port), known, _OWN_PORTS_HINT)
        return (Route(local_port=port, container_port=port),)
    local = _suggestion(FIRST_REPLICA_PORT + seed % REPLICA_PORTS, known, set())
    if local is None:
        raise Conflict("no port of this computer is free for the replica")
    return (Route(local_port=local, container_port=port if host is HostKind.DOCKER else local),)


def _taken_by(
    routes: Iterable[Route],
    others: Iterable[PortMapping],
    ports: Sequence[PortMapping],
    host: HostKind,
) -> set[int]:
    """Return the ports of this computer that the run's other ports take, or are going to."""
    taken = {route.local_port for route in routes}
    taken |= {port.local_port for port in others if port.local_port is not None}
    if host is HostKind.PROCESS:
        taken |= {port.container_port for port in ports}
    return taken


def _refuse_doubles(ports: Sequence[PortMapping]) -> None:
    for what in ("container_port", "local_port"):
        numbers = [getattr(port, what) for port in ports if getattr(port, what) is not None]
        for number in numbers:
            if numbers.count(number) > 1:
                raise Conflict(f"the {what.replace('_', ' ')} {number} is given twice in `ports`")


def _check_own_port(port: PortMapping, known: _Ports, advice: str = _OTHER_PORT) -> None:
    """Raise `Conflict` unless a plain process can listen on the port that it means to."""
    wanted = port.container_port
    if wanted < known.lowest:
        raise Conflict(
            f"port {wanted} is kept for root: a plain process of yours can only listen on ports "
            f"from {known.lowest}",
            hint="have the program listen on a higher port, or choose an offer with Docker",
        )
    who = known.holder(wanted)
    if who is not None:
        raise Conflict(
            f"port {wanted} is in use by {who}, "
            "and a plain process listens on this computer itself",
            hint=f"{_stop_words(who)}{advice}, or choose an offer with Docker",
        )


def _check_local_port(port: PortMapping, local: int, known: _Ports, taken_here: set[int]) -> None:
    container = port.container_port
    direct = known.host is HostKind.PROCESS and local == container
    if local < known.lowest:
        other = _suggestion(max(FIRST_FREE_FOR_ALL, container), known, taken_here)
        raise Conflict(
            f"port {local} is kept for root: yours are the ports from {known.lowest}",
            hint=_choices(other, container),
        )
    who = None if direct else known.holder(local)
    if who is None and local in taken_here and not direct:
        who = "this run itself"
    if who is not None:
        other = _suggestion(local + 1, known, taken_here)
        raise Conflict(f"port {local} is in use by {who}", hint=_choices(other, container))


def _next_free(port: PortMapping, known: _Ports, taken_here: set[int]) -> int:
    container = port.container_port
    if known.host is HostKind.PROCESS:
        # Nothing else can have it: the job itself is going to listen there.
        return container
    for candidate in range(container, LARGEST_PORT + 1):
        if known.is_ours_to_take(candidate, taken_here):
            return candidate
    raise Conflict(
        f"no port from {container} to {LARGEST_PORT} is free", hint=_choices(None, container)
    )


def _suggestion(start: int, known: _Ports, taken_here: set[int], tries: int = 1000) -> int | None:
    for candidate in range(start, min(start + tries, LARGEST_PORT + 1)):
        if known.is_ours_to_take(candidate, taken_here):
            return candidate
    return None


def _choices(other: int | None, container: int) -> str:
    if other is None:
        return f'write `"*:{container}"` for any free port, or name one, as in `"8081:{container}"`'
    pair = f"{other}:{container}"
    return f'write `"*:{container}"` or `"{pair}"` under `ports`, or pass `-p {pair}`'


def _stop_words(who: str) -> str:
    return f"stop it (`%dstack stop {who[4:]}`), " if who.startswith("run ") else ""
