"""What a fleet's configuration means: which machines there are to be, and what is refused. Pure.

The fleet loop asks `advance_fleet`; `dstack_engine.fleets` asks the rest while somebody applies or
deletes a fleet and still looks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePath
from typing import TypeAlias

from dstack_engine.decisions.ownership import SSH
from dstack_engine.errors import Conflict, Refused
from dstack_engine.records.fleets import Fleet, FleetStatus
from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus
from dstack_engine.records.jobs import Job
from dstack_engine.records.machines import SshTarget
from dstack_engine.records.offers import Availability, HostKind, MachineShape, Offer, OfferId
from dstack_engine.spec.fleets import (
    SSH_PORT,
    Blocks,
    FleetConfiguration,
    ProxyJump,
    SshConfig,
    SshHost,
    key_paths,
)

#: What tells one machine from another: its name or address, its port, and through whom.
Place: TypeAlias = tuple[str, int, str]


@dataclass(frozen=True)
class Wanted:
    """A machine that a fleet's configuration names."""

    ssh: SshTarget
    internal_ip: str | None
    network: str | None
    blocks: Blocks


def wanted_machines(configuration: FleetConfiguration) -> tuple[Wanted, ...]:
    """Return the machines that *configuration* names; what a host says goes before the rest."""
    config = configuration.ssh_config
    return () if config is None else tuple(_wanted(h, config, configuration) for h in config.hosts)


def _wanted(host: SshHost, config: SshConfig, configuration: FleetConfiguration) -> Wanted:
    target = SshTarget(
        hostname=host.hostname,
        port=host.port or config.port,
        user=host.user or config.user,
        identity_file=host.identity_file or config.identity_file,
        jump=_jump(host.proxy_jump or config.proxy_jump),
    )
    blocks = host.blocks or configuration.blocks or 1
    return Wanted(target, host.internal_ip, config.network, blocks)


def _jump(through: ProxyJump | None) -> SshTarget | None:
    if through is None:
        return None
    return SshTarget(through.hostname, through.port, through.user, through.identity_file)


def place_of(ssh: SshTarget) -> Place:
    """Return what tells this machine from every other."""
    through = ssh.jump.hostname.lower() if ssh.jump is not None else ""
    return ssh.hostname.lower(), ssh.port or SSH_PORT, through


# --- the fleet loop ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Advance:
    """What to write: the fleet, and its instances that are new or changed."""

    fleet: Fleet
    instances: tuple[Instance, ...] = ()


def advance_fleet(fleet: Fleet, living: Sequence[Instance], now: datetime) -> Advance:
    """Return the fleet and its instances as they should be written now.

    *living* are the instances of all fleets that are not gone. A machine that still is being let
    go, of this fleet or of another, is waited for: nobody else may have it meanwhile.
    """
    own = [one for one in living if one.fleet == fleet.name]
    if fleet.finished:
        return Advance(fleet)
    if fleet.delete_requested_at is not None:
        return Advance(_end(fleet, own, now), tuple(_wish_gone(own, fleet.delete_requested_at)))
    wanted = wanted_machines(fleet.configuration)
    there = {place_of(one.ssh): one for one in living if one.ssh is not None}
    numbers = _free_numbers({one.number for one in own})
    written = list(_wish_gone(leaving_machines(fleet.name, wanted, own), now))
    for one in wanted:
        before = there.get(place_of(one.ssh))
        after = (
            _made(one, fleet, next(numbers), now)
            if before is None
            else _renewed(before, one, fleet)
        )
        if after != before:
            written.append(after)
    return Advance(_moved(fleet, FleetStatus.ACTIVE, now), tuple(written))


def _places(wanted: Iterable[Wanted]) -> set[Place]:
    return {place_of(one.ssh) for one in wanted}


def _end(fleet: Fleet, own: Sequence[Instance], now: datetime) -> Fleet:
    return _moved(fleet, FleetStatus.TERMINATING if own else FleetStatus.TERMINATED, now)


def _moved(fleet: Fleet, status: FleetStatus, now: datetime) -> Fleet:
    return fleet if fleet.status is status else replace(fleet, status=status, since=now)


def _wish_gone(instances: Iterable[Instance], at: datetime) -> Iterator[Instance]:
    for instance in instances:
        if instance.delete_requested_at is None:
            yield replace(instance, delete_requested_at=at)


def _renewed(instance: Instance, wanted: Wanted, fleet: Fleet) -> Instance:
    """Return the instance with what its fleet says of it now, unless it is being let go."""
    if instance.fleet != fleet.name or instance.delete_requested_at is not None:
        return instance
    return replace(
        instance,
        ssh=wanted.ssh,
        internal_ip=wanted.internal_ip,
        network=wanted.network,
        blocks=wanted.blocks,
    )


def _free_numbers(taken: Collection[int]) -> Iterator[int]:
    number = 0
    while True:
        if number not in taken:
            yield number
        number += 1


def _made(wanted: Wanted, fleet: Fleet, number: int, now: datetime) -> Instance:
    name = InstanceName(f"{fleet.name}-{number}")
    return Instance(
        name=name,
        backend=SSH,
        offer=Offer(
            id=OfferId(f"{SSH}/{name}"),
            backend=SSH,
            region=fleet.name,
            instance_type=wanted.ssh.hostname,
            host=HostKind.DOCKER,
            shape=MachineShape(0, 0.0),
            price=0.0,
            availability=Availability.NOT_AVAILABLE,
            instance=name,
            fleet=fleet.name,
        ),
        status=InstanceStatus.PENDING,
        since=now,
        created_at=now,
        fleet=fleet.name,
        number=number,
        ssh=wanted.ssh,
        internal_ip=wanted.internal_ip,
        network=wanted.network,
        blocks=wanted.blocks,
    )


# --- while somebody applies or deletes --------------------------------------------------------


def refuse_unsupported(configuration: FleetConfiguration) -> None:
    """Raise `Refused` for what is understood, but means nothing here."""
    if configuration.ssh_config is None and configuration.nodes is None:
        raise Refused(
            "The fleet names no machines.", hint="Write `ssh_config:` with the `hosts:` to reach."
        )
    if configuration.nodes is not None:
        raise Refused(
            "`nodes` rents machines, and this version has no cloud to rent from.",
            hint="Name machines of your own: `ssh_config:` with `hosts:`.",
        )
    if configuration.env:
        raise Refused(
            "`env` of a fleet is not given to the runs on it by this version.",
            hint="Write the variables into the run's own `env`.",
        )
    for path in key_paths(configuration):
        if not PurePath(path).is_absolute():
            raise Refused(f"`identity_file: {path}` is not an absolute path.")


def refuse_others(name: str, wanted: Iterable[Wanted], living: Iterable[Instance]) -> None:
    """Raise `Conflict` where a machine that is *wanted* is another fleet's, and stays so."""
    held = {
        place_of(one.ssh): one
        for one in living
        if one.ssh is not None and one.fleet != name and one.delete_requested_at is None
    }
    for one in wanted:
        other = held.get(place_of(one.ssh))
        if other is not None:
            raise Conflict(
                f"The machine {one.ssh.hostname} is {other.name} of the fleet {other.fleet} "
                "already.",
                hint=f"Leave it out here, or there, or delete that: %dstack fleet delete "
                f"{other.fleet}",
            )


def refuse_in_use(fleet: str, leaving: Collection[Instance], jobs: Iterable[Job]) -> None:
    """Raise `Conflict` where a job that is not at its end is on one of *leaving*."""
    runs = runs_on(leaving, jobs)
    if not runs:
        return
    told = ", ".join(f"{run} ({machine})" for run, machine in runs.items())
    raise Conflict(
        f"Fleet {fleet} is in use by the run{'s' if len(runs) > 1 else ''} {told}.",
        hint=f"Stop {'them' if len(runs) > 1 else 'it'} first: %dstack stop {' '.join(runs)}",
    )


def runs_on(instances: Collection[Instance], jobs: Iterable[Job]) -> dict[str, str]:
    """Return the names of the runs on *instances*, each with the machine it is on."""
    names = {instance.name for instance in instances}
    return {
        job.run_name: job.instance
        for job in jobs
        if job.instance in names and job.instance is not None and not job.finished
    }


def refuse_resplit(
    fleet: str, wanted: Iterable[Wanted], living: Iterable[Instance], jobs: Sequence[Job]
) -> None:
    """Raise `Conflict` where a machine that is in use would be split into other parts."""
    blocks = {place_of(one.ssh): one.blocks for one in wanted}
    resplit = [
        one
        for one in living
        if one.fleet == fleet
        and one.ssh is not None
        and blocks.get(place_of(one.ssh), one.blocks) != one.blocks
    ]
    refuse_in_use(fleet, resplit, jobs)


def leaving_machines(
    fleet: str, wanted: Iterable[Wanted], living: Iterable[Instance]
) -> list[Instance]:
    """Return the instances of *fleet* that *wanted* does not name any more."""
    places = _places(wanted)
    return [
        one
        for one in living
        if one.fleet == fleet and one.ssh is not None and place_of(one.ssh) not in places
    ]


def without(configuration: FleetConfiguration, gone: Collection[Instance]) -> FleetConfiguration:
    """Return *configuration* without the machines *gone*."""
    config = configuration.ssh_config
    assert config is not None, "a fleet of rented machines"
    places = {place_of(one.ssh) for one in gone if one.ssh is not None}
    stay = tuple(
        host
        for host, wanted in zip(config.hosts, wanted_machines(configuration), strict=True)
        if place_of(wanted.ssh) not in places
    )
    return configuration.model_copy(
        update={"ssh_config": config.model_copy(update={"hosts": stay})}
    )
