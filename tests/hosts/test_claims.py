"""Whose a machine is: one engine's, whoever comes at the same time or later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_engine.errors import HostUnreachable
from dstack_engine.hosts import claims
from dstack_engine.hosts.claims import Owner, claim, owner_here, unclaim
from tests.hosts.engines import Engine

ANN = Owner("home-of-ann", "ann@laptop")
BOB = Owner("home-of-bob", "bob@desk")


@pytest.fixture
def machine(
    tmp_path: Path, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of a Docker Engine; the mark has a name of this test's own."""
    monkeypatch.setattr(claims, "CLAIM", f"claim-{tmp_path.name}")
    yield docker_engine.host
    for owner in (ANN, BOB):
        unclaim(docker_engine.host, owner)


@pytest.mark.docker
def test_a_machine_belongs_to_the_first_engine_that_claims_it(machine: str) -> None:
    assert claim(machine, ANN).ok
    assert claim(machine, ANN).ok
    refused = claim(machine, BOB)
    assert refused.fatal
    assert refused.text.startswith("is used by the engine of ann@laptop since 20")
    assert "docker volume rm claim-" in str(refused.fix)


@pytest.mark.docker
def test_a_machine_that_was_given_back_can_be_claimed_by_another(machine: str) -> None:
    claim(machine, ANN)
    unclaim(machine, ANN)
    assert claim(machine, BOB).ok


@pytest.mark.docker
def test_nobody_takes_away_anothers_mark(machine: str) -> None:
    claim(machine, ANN)
    unclaim(machine, BOB)
    assert not claim(machine, BOB).ok


@pytest.mark.docker
def test_of_engines_that_claim_at_once_one_wins(machine: str) -> None:
    for _ in range(5):
        owners = [Owner(f"home-{number}", f"user-{number}@desk") for number in range(8)]
        start = threading.Barrier(len(owners))
        won: list[Owner] = []

        def race(owner: Owner, start: threading.Barrier = start, won: list[Owner] = won) -> None:
            start.wait()
            if claim(machine, owner).ok:
                won.append(owner)

        threads = [threading.Thread(target=race, args=(owner,)) for owner in owners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        unclaim(machine, won[0])


def test_an_engine_that_does_not_answer_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(HostUnreachable):
        claim(f"unix://{tmp_path}/docker.sock", ANN)


def test_an_owner_is_told_by_user_and_computer() -> None:
    assert "@" in owner_here("home").who
