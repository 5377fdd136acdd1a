"""Submissions: how what an author wants becomes a run that the loops find.

Planned and agreed to against what can be rented now, refused while the author still looks, saved
in one transaction. Called by `engine`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Final

from dstack_engine.decisions import placement
from dstack_engine.decisions.capacity import as_they_stand
from dstack_engine.decisions.clusters import with_their_fleets
from dstack_engine.decisions.deployments import refuse_unsupported, renew
from dstack_engine.decisions.instances import trouble_of
from dstack_engine.decisions.ownership import nodes_of
from dstack_engine.decisions.scripts import check_script, registry_login_of
from dstack_engine.decisions.services import first_state
from dstack_engine.errors import Conflict, HostUnreachable, LeaseLost, NotFound, Refused
from dstack_engine.hosts.base import KnowsImages
from dstack_engine.reconcilers.containers import image_of
from dstack_engine.reconcilers.world import World
from dstack_engine.records.offers import Availability, Offer, OfferId, Plan
from dstack_engine.records.runs import Run, RunId, RunStatus
from dstack_engine.spec.configurations import Runnable, ServiceConfiguration
from dstack_engine.spec.names import check_name, random_name
from dstack_engine.spec.secrets import refuse_secrets

#: How long a plan waits to be told which machines have its image, in seconds.
IMAGE_PATIENCE: Final = 1.0

_ANSWERING: Final = frozenset({Availability.IDLE, Availability.BUSY})


@dataclass(frozen=True)
class Submission:
    """What a client sends to have a run."""

    #: Made by the client, so that what is sent twice is one run.
    key: str
    configuration: Runnable
    offers: Sequence[OfferId]
    environment: Mapping[str, str]
    files: str | None
    project: str | None

    @property
    def run_id(self) -> RunId:
        """The id that its run has, or would have."""
        return run_id_of(self.key)


def run_id_of(key: str) -> RunId:
    """Return the id of the run that the submission *key* made, or would make."""
    return RunId(hashlib.sha256(key.encode()).hexdigest()[:24])


class Submissions:
    """Takes submissions, from any thread."""

    def __init__(self, world: World) -> None:
        """Work in *world*, whose loops are woken."""
        self._world = world

    def plan(self, configuration: Runnable) -> Plan:
        """Return the offers for *configuration*, the best first, and why others were refused."""
        plan = self._place(configuration)
        remarks = self._image_remarks(configuration, plan)
        return replace(
            plan,
            offers=tuple(
                replace(offer, remarks=(*offer.remarks, *remarks.get(offer.id, ())))
                for offer in plan.offers
            ),
        )

    def take(self, asked: Submission) -> Run:
        """Save a run, or what the living service of its name is to be, and wake the loops.

        Raises `Refused`, `NoOffers`, `NotFound` (its files did not arrive), `Conflict` (the name,
        or one of its ports, is taken).
        """
        known = self._world.store.run_by_id(asked.run_id)
        if known is not None:
            return known.record
        wanted = self._run_of(asked)
        run = self._renew(wanted, offers_named=bool(asked.offers)) or self._insert(wanted)
        self._world.checkpoint("run submitted")
        self._world.wake("runs", run.id)
        self._world.wake("routes", "all")
        return run

    def _run_of(self, asked: Submission) -> Run:
        """Return the run that is asked for; nothing is saved yet."""
        configuration = asked.configuration
        environment = _checked_environment(configuration, asked.environment)
        offers = _agree(self._place(configuration), asked.offers, nodes=nodes_of(configuration))
        if asked.files is not None:
            self._world.blobs.files(asked.files)  # raises NotFound: they did not arrive
        now = self._world.clock()
        service = (
            first_state(configuration) if isinstance(configuration, ServiceConfiguration) else None
        )
        return Run(
            id=asked.run_id,
            name=check_name(configuration.name) if configuration.name else self._new_name(),
            configuration=configuration,
            status=RunStatus.SUBMITTED,
            since=now,
            submitted_at=now,
            offers=offers,
            files=asked.files,
            project=asked.project,
            environment=environment,
            service=service,
        )

    def _new_name(self) -> str:
        return random_name(taken=self._world.store.run_names())

    def _renew(self, wanted: Run, *, offers_named: bool) -> Run | None:
        """Give the living service of that name its new configuration; None where none lives."""
        while wanted.service is not None:
            try:
                kept = self._world.store.run(wanted.name)
            except NotFound:
                return None
            renewed = renew(kept.record, wanted, offers_named=offers_named)
            if renewed is None:
                return None
            try:
                with self._world.store.transaction(wanted.submitted_at) as transaction:
                    transaction.save(kept, renewed)
            except LeaseLost:
                continue
            return renewed
        return None

    def _insert(self, run: Run) -> Run:
        """Save the run; an ended one of the same name gives way, a living one does not."""
        self._check_ports(run)
        with self._world.store.transaction(run.submitted_at) as transaction:
            try:
                old: Run | None = self._world.store.run(run.name).record
            except NotFound:
                old = None
            if old is not None and not old.finished:
                raise Conflict(
                    f"There is a run named {run.name!r}, and it is {old.status}.",
                    hint=f"Choose another name, or stop it first: %dstack stop {run.name}",
                )
            if old is not None:
                transaction.delete_run(old)
            transaction.insert(run)
        return run

    def _check_ports(self, run: Run) -> None:
        """Raise the refusal of `choose_routes` now, while the author still looks."""
        active = [kept.record for kept in self._world.store.jobs(finished=False)]
        self._world.choose_routes(run.configuration, run.offers[0], active)

    def _place(self, configuration: Runnable) -> Plan:
        """Return the plan without what only its reader wants to know: whose images are here."""
        offers, silent = self._world.backends.list_offers()
        active = (kept.record for kept in self._world.store.jobs(finished=False))
        offers = as_they_stand(offers, active)
        plan = placement.plan(configuration, offers, configured=self._world.backends)
        return replace(plan, remarks=(*plan.remarks, *silent, *self._fleet_remarks(configuration)))

    def _fleet_remarks(self, configuration: Runnable) -> tuple[str, ...]:
        """Say of each machine of the fleets that may be used why it cannot be, where it cannot."""
        fleets, backends = configuration.fleets, configuration.backends
        if backends is not None and not {"ssh", "remote"} & set(backends):
            return ()
        machines = (kept.record for kept in self._world.store.instances(finished=False))
        troubles = (
            trouble_of(machine)
            for machine in machines
            if machine.fleet is not None and (fleets is None or machine.fleet in fleets)
        )
        return tuple(trouble for trouble in troubles if trouble is not None)

    def _image_remarks(self, configuration: Runnable, plan: Plan) -> dict[OfferId, tuple[str, ...]]:
        """Say of each Docker offer when its image must be fetched first.

        Of machines reached by SSH, those are told of that answer within `IMAGE_PATIENCE`.
        """
        images = {
            offer: image
            for offer in plan.offers
            if (image := image_of(configuration, offer, self._world.settings)) is not None
        }
        remarks: dict[OfferId, tuple[str, ...]] = {}
        for offer in self._lacking(images):
            where = "here" if offer.instance is None else f"on {offer.instance}"
            remarks[offer.id] = (f"{images[offer]} is not {where} yet; it will be pulled",)
        return remarks

    def _lacking(self, images: Mapping[Offer, str]) -> list[Offer]:
        """Return the offers that are known to lack their image."""
        lacks = [
            one for one, image in images.items() if one.instance is None and self._lacks(one, image)
        ]
        there = [
            one for one in images if one.availability in _ANSWERING and one.instance is not None
        ]
        if not there:
            return lacks
        pool = ThreadPoolExecutor(max_workers=min(len(there), 16), thread_name_prefix="images")
        asked = {pool.submit(self._lacks, one, images[one]): one for one in there}
        done = wait(asked, timeout=IMAGE_PATIENCE).done
        pool.shutdown(wait=False, cancel_futures=True)
        return [*lacks, *(asked[one] for one in done if one.result())]

    def _lacks(self, offer: Offer, image: str) -> bool:
        try:
            host = self._world.host_at(offer)
            return isinstance(host, KnowsImages) and not host.has_image(image)
        except HostUnreachable:
            return False


def _checked_environment(configuration: Runnable, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with their values; raise `Refused` for what no offer could run."""
    refuse_unsupported(configuration)
    refuse_secrets(configuration)
    check_script(configuration)
    values = {name: given.get(name, value) for name, value in configuration.env.items()}
    missing = sorted(name for name, value in values.items() if value is None)
    if missing:
        raise Refused(f"These variables have no value: {', '.join(missing)}.")
    resolved = {name: value for name, value in values.items() if value is not None}
    registry_login_of(configuration, resolved)  # raises Refused: it names what is not there
    return resolved


def _agree(plan: Plan, wanted: Sequence[OfferId], *, nodes: int) -> tuple[Offer, ...]:
    """Return the offers *wanted*, or all; raise `NoOffers`, or `Conflict` for one that is gone.

    Who chooses a machine for several *nodes* means its fleet.
    """
    if not plan.offers:
        raise placement.no_offers(plan)
    if not wanted:
        return plan.offers
    known = {offer.id: offer for offer in plan.offers}
    missing = [offer for offer in wanted if offer not in known]
    if missing:
        raise Conflict(
            f"The offer {missing[0]!r} is not there any more.",
            hint=f"There are now: {', '.join(known)}.",
        )
    chosen = [known[offer] for offer in wanted]
    return tuple(with_their_fleets(chosen, plan.offers) if nodes > 1 else chosen)
