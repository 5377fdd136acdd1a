"""Whose machine an offer is, and what a run says of that: backends, fleets, what its host can.

Pure. This computer and the machines reached by SSH are there whether they are used or not; all else
is rented. `requirements` puts these demands together with those of resources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

from dstack_engine.decisions import quantities
from dstack_engine.decisions.demands import READ_PRICE, Demand
from dstack_engine.decisions.scripts import PORT_VARIABLE, finds_its_port
from dstack_engine.enums import StrEnum
from dstack_engine.records.offers import Availability, HostKind, Offer
from dstack_engine.spec.configurations import (
    RunConfiguration,
    ServiceConfiguration,
    effective_spot_policy,
)

#: The backend that is this computer; its machine is here whether it is used or not.
LOCAL = "local"

#: The backend of the machines of one's own that are reached by SSH.
SSH = "ssh"

#: dstack's older name for machines of one's own, reached by SSH.
_BACKEND_NAMES = {"remote": SSH}

_OURS = frozenset({Availability.IDLE, Availability.BUSY})

_READ_BACKEND = attrgetter("backend")
_READ_REGION = attrgetter("region")
_READ_ZONE = attrgetter("zone")
_READ_TYPE = attrgetter("instance_type")
_READ_SPOT = attrgetter("spot")
_READ_ID = attrgetter("id")
_READ_HOST = attrgetter("host")
READ_FLEET = attrgetter("fleet")


class Site(StrEnum):
    """Whose machine it is."""

    HERE = "here"  #: this computer
    FLEET = "fleet"  #: one of our own that is reached by SSH
    RENTED = "rented"  #: somebody else's, paid by the hour

    @property
    def owned(self) -> bool:
        """Tell whether it is there anyway: what nobody wrote is not demanded of it."""
        return self is not Site.RENTED


def site_of(offer: Offer) -> Site:
    """Return whose machine *offer* is."""
    if offer.backend == LOCAL:
        return Site.HERE
    return Site.FLEET if offer.backend == SSH else Site.RENTED


def machine_words(offer: Offer) -> str:
    """Return how a sentence names the machine: ``this computer``, ``lab-0``, ``it``."""
    if offer.backend == LOCAL:
        return "this computer"
    return offer.instance or "it"


def name_of(offer: Offer) -> str:
    """Return what is waited for: the name of a machine of ours, else the offer's id."""
    return offer.instance or offer.id


def nodes_of(wanted: RunConfiguration) -> int:
    """Return on how many machines the run wants to be at once."""
    return int(getattr(wanted, "nodes", 1))


def filters(wanted: RunConfiguration) -> Iterator[Demand]:
    """Yield the demands that name whose machine it may be, and its price."""
    if wanted.backends is not None:
        names = [_BACKEND_NAMES.get(name, name) for name in wanted.backends]
        yield _among("backends", names, _READ_BACKEND, "its backend is")
    if wanted.regions is not None:
        yield _among("regions", wanted.regions, _READ_REGION, "its region is")
    if wanted.availability_zones is not None:
        yield _among("availability_zones", wanted.availability_zones, _READ_ZONE, "its zone is")
    if wanted.instance_types is not None:
        yield _among("instance_types", wanted.instance_types, _READ_TYPE, "its type is")
    if wanted.max_price is not None:
        yield _price(wanted.max_price)
    yield from _spot(wanted)
    yield from _ownership(wanted)


def abilities(wanted: RunConfiguration, site: Site) -> Iterator[Demand]:
    """Yield the demands that only some hosts and sites can meet."""
    if not site.owned:
        return
    nodes = nodes_of(wanted)
    if nodes > 1 and site is Site.HERE:
        yield _never(f"asks {nodes} nodes", lambda _: "this computer is one")
    yield from _volumes(wanted)
    if site is Site.HERE:
        yield from _docker_only(wanted)


def process_remarks(wanted: RunConfiguration) -> Iterator[str]:
    """Yield what the author should know of a plain process."""
    if wanted.resources.shm_size is not None:
        yield "shm_size is not set: plain processes share this computer's /dev/shm"
    if wanted.wrote("home_dir"):
        yield "home_dir is not used: plain processes keep your own home folder"
    if wanted.nvcc:
        yield "nvcc is the one of this computer, if it has one"
    if isinstance(wanted, ServiceConfiguration) and _shares_a_port(wanted):
        port = wanted.port.container_port
        yield (
            f"only one replica at a time can listen on port {port}: have the program listen on "
            f"${PORT_VARIABLE}, which is another one for each"
        )


def volume_remarks(wanted: RunConfiguration) -> Iterator[str]:
    """Yield which folders of the machine are left out, since they may be."""
    for mount in wanted.volumes:
        if mount.instance_path is not None and mount.optional:
            yield (
                f"the folder {mount.instance_path} is not mounted at {mount.path}: "
                "this version mounts none"
            )


def _among(
    key: str, names: Sequence[str], read: Callable[[Offer], str | None], is_words: str
) -> Demand:
    allowed = {name.lower() for name in names}
    listed = ", ".join(names) or "empty"
    return Demand(
        f"{key}: {listed}",
        read,
        lambda value: value is not None and value.lower() in allowed,
        lambda offer: f"{key}: {listed}; {is_words} {read(offer) or 'not known'}",
    )


def _price(most: float) -> Demand:
    asked = f"max_price is {quantities.price(most)}"
    return Demand(
        asked,
        READ_PRICE,
        most.__ge__,
        lambda offer: f"costs {quantities.price(offer.price)}/h; {asked}",
    )


def _spot(wanted: RunConfiguration) -> Iterator[Demand]:
    policy = effective_spot_policy(wanted)
    if policy == "auto":
        return
    yield Demand(
        f"spot_policy is {policy}",
        _READ_SPOT,
        lambda spot: spot == (policy == "spot"),
        lambda offer: (
            f"spot_policy is {policy}; {machine_words(offer)} is a spot machine"
            if offer.spot
            else f"spot_policy is {policy}; {machine_words(offer)} is not a spot machine"
        ),
    )


def _ownership(wanted: RunConfiguration) -> Iterator[Demand]:
    if wanted.creation_policy == "reuse":
        yield Demand(
            "creation_policy is reuse",
            _is_ours,
            bool,
            lambda _: "creation_policy is reuse; it would have to be rented",
        )
    if wanted.instance_name is not None:
        name = wanted.instance_name
        yield Demand(
            f"instance_name is {name}",
            _READ_ID,
            lambda offer_id: offer_id.rpartition("/")[2] == name,
            lambda offer: f"instance_name is {name}; this is {name_of(offer)}",
        )
    if wanted.fleets is not None:
        yield _fleets(wanted.fleets)


def _fleets(names: Sequence[str]) -> Demand:
    asked = f"fleets: {', '.join(names) or 'empty'}"

    def reason(offer: Offer) -> str:
        where = f"fleet {offer.fleet}" if offer.fleet else "no fleet"
        return f"{asked}; {machine_words(offer)} is in {where}"

    return Demand(asked, READ_FLEET, set(names).__contains__, reason)


def _is_ours(offer: Offer) -> bool:
    """Tell whether the machine is there already: this computer, or an instance of ours."""
    return site_of(offer).owned or offer.instance is not None or offer.availability in _OURS


def _volumes(wanted: RunConfiguration) -> Iterator[Demand]:
    for mount in wanted.volumes:
        if mount.name is not None:
            asked = f"asks the volume {mount.name}"
            yield _never(asked, lambda offer: f"{machine_words(offer)} has no volumes")
        elif not mount.optional:
            yield _never(
                f"asks the folder {mount.instance_path} of the machine",
                lambda offer: f"this version mounts no folders of {machine_words(offer)}",
            )


def _docker_only(wanted: RunConfiguration) -> Iterator[Demand]:
    if wanted.type == "dev-environment":
        words = "plain processes run tasks and services only"
        yield _by_docker(f"is a {wanted.type}", words)
    if wanted.image is not None:
        yield _by_docker(f"asks the image {wanted.image}", "a plain process has no image")
    if wanted.entrypoint is not None:
        yield _by_docker("asks an entrypoint", "a plain process has none")
    if wanted.registry_auth is not None:
        yield _by_docker("gives registry_auth", "a plain process has no image to pull")
    if wanted.privileged:
        yield _by_docker("asks to be privileged", "a plain process has the rights that you have")
    if wanted.user is not None:
        yield _by_docker(f"asks the user {wanted.user}", "a plain process runs as you")


def _never(asked: str, why: Callable[[Offer], str]) -> Demand:
    return Demand(asked, _READ_BACKEND, lambda _: False, lambda offer: f"{asked}; {why(offer)}")


def _by_docker(asked: str, why: str) -> Demand:
    return Demand(
        asked, _READ_HOST, lambda host: host is HostKind.DOCKER, lambda _: f"{asked}; {why}"
    )


def _shares_a_port(wanted: ServiceConfiguration) -> bool:
    return wanted.replicas.max > 1 and not finds_its_port(wanted)
