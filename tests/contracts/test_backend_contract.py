"""What every backend promises, of the fake and of the real ones alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dstack_engine.backends.base import Backend
from dstack_engine.backends.gpus import GpuReport
from dstack_engine.backends.local import LocalBackend
from dstack_engine.backends.ssh import SshBackend
from dstack_engine.errors import BackendError
from dstack_engine.records.instances import Instance, InstanceName, InstanceStatus
from dstack_engine.records.machines import Examination, SshTarget
from dstack_engine.records.offers import HostKind, MachineShape, Offer, OfferId
from dstack_engine.testing import NOON, FakeBackend

NAME = InstanceName("fox-0-0-1")

#: How often a machine is looked at before a backend is thought to have hung.
LOOKS = 10


def fake_backend() -> Backend:
    offers = [
        Offer(
            OfferId(f"fake/{name}"),
            "fake",
            "moon",
            name,
            HostKind.DOCKER,
            MachineShape(2, 8.0),
            price,
        )
        for name, price in (("small", 0.5), ("large", 2.0))
    ]
    return FakeBackend("fake", offers, boots_after=2)


def local_backend() -> Backend:
    return LocalBackend(lambda: True, gpus=GpuReport)


def ssh_backend() -> Backend:
    """A fleet of one machine, whose name the tests ask by."""
    shape = MachineShape(8, 32.0)
    offer = Offer(
        OfferId(f"ssh/{NAME}"), "ssh", "lab", "10.0.0.5", HostKind.DOCKER, shape, 0.0, instance=NAME
    )
    machine = Instance(
        NAME,
        "ssh",
        offer,
        InstanceStatus.IDLE,
        NOON,
        NOON,
        fleet="lab",
        ssh=SshTarget("10.0.0.5"),
        examination=Examination(NOON, (), shape),
    )
    return SshBackend(lambda: [machine])


@pytest.fixture(params=[fake_backend, local_backend, ssh_backend])
def backend(request: pytest.FixtureRequest) -> Backend:
    make: Callable[[], Backend] = request.param
    return make()


@pytest.fixture
def offer(backend: Backend) -> Offer:
    return next(iter(backend.offers()))


def test_every_offer_names_its_backend_and_itself(backend: Backend) -> None:
    offers = list(backend.offers())
    assert offers
    assert {offer.backend for offer in offers} == {backend.name}
    assert len({offer.id for offer in offers}) == len(offers)
    assert all(offer.price >= 0 and offer.shape.cpus > 0 for offer in offers)


def test_offers_may_be_asked_for_again(backend: Backend) -> None:
    first, second = ([offer.id for offer in backend.offers()] for _ in range(2))
    assert first == second


def test_a_machine_carries_the_name_that_it_was_asked_by(backend: Backend, offer: Offer) -> None:
    assert backend.create(offer, NAME).name == NAME


def test_asked_twice_for_one_name_it_gives_one_machine(backend: Backend, offer: Offer) -> None:
    assert backend.create(offer, NAME).name == backend.create(offer, NAME).name
    backend.terminate(NAME)
    machine = backend.describe(NAME)
    assert machine is None or backend.name in ("local", "ssh")  # which rent nothing


def test_a_machine_becomes_ready_while_it_is_looked_at(backend: Backend, offer: Offer) -> None:
    backend.create(offer, NAME)
    looks = (backend.describe(NAME) for _ in range(LOOKS))
    assert any(machine is not None and machine.ready for machine in looks)


def test_a_machine_has_at_least_what_was_offered(backend: Backend, offer: Offer) -> None:
    shape = backend.create(offer, NAME).shape
    assert shape.cpus >= offer.shape.cpus
    assert shape.memory_gb >= offer.shape.memory_gb


def test_a_machine_may_be_given_back_twice(backend: Backend, offer: Offer) -> None:
    backend.create(offer, NAME)
    backend.terminate(NAME)
    backend.terminate(NAME)


def test_what_was_never_rented_may_be_given_back(backend: Backend) -> None:
    backend.terminate(InstanceName("never"))


def test_an_offer_of_another_backend_is_refused_or_unknown(backend: Backend, offer: Offer) -> None:
    if isinstance(backend, FakeBackend):
        backend.sold_out.add(offer.id)
        foreign = offer
    else:
        foreign = Offer(
            **{**vars(offer), "id": OfferId("aws/g5"), "backend": "aws", "instance": None}
        )
    with pytest.raises(BackendError):
        backend.create(foreign, NAME)
