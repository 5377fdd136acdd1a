"""Where the engine is: a lock that tells the truth, and a file that may be left over."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dstack_engine.address import EngineAddress, find_engine, has_crashed, publish, take_lock
from dstack_engine.client import Client
from dstack_engine.errors import EngineDown, EngineStartFailed, EngineVersionMismatch
from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_engine.records.updates import PROTOCOL


@pytest.fixture
def own_home(home: Path) -> Home:
    return Home(home).make()


def an_address(protocol: int = PROTOCOL) -> EngineAddress:
    return EngineAddress(4711, "secret-token", os.getpid(), "9.9.9", protocol)


def test_no_engine_is_found_in_a_fresh_home(own_home: Home) -> None:
    assert find_engine(own_home) is None
    assert not has_crashed(own_home)


def test_an_engine_is_found_while_it_holds_its_lock(own_home: Home) -> None:
    lock = take_lock(own_home)
    assert lock is not None
    publish(own_home, an_address())
    assert find_engine(own_home) == an_address()
    lock.close()
    assert find_engine(own_home) is None
    assert has_crashed(own_home)


def test_a_second_engine_does_not_get_the_lock(own_home: Home) -> None:
    lock = take_lock(own_home)
    assert take_lock(own_home) is None
    assert lock is not None
    lock.close()


def test_an_address_left_by_another_process_is_not_believed(own_home: Home) -> None:
    lock = take_lock(own_home)
    publish(own_home, EngineAddress(4711, "old", os.getpid() + 1, "9.9.9", PROTOCOL))
    assert find_engine(own_home) is None
    assert lock is not None
    lock.close()


def test_the_token_is_its_users_alone_and_never_shown(own_home: Home) -> None:
    publish(own_home, an_address())
    assert stat.S_IMODE(own_home.engine_file.stat().st_mode) == 0o600
    assert "secret-token" not in repr(an_address())


def test_without_an_engine_a_client_says_how_to_start_one(own_home: Home) -> None:
    with pytest.raises(EngineDown) as refusal:
        connect(own_home, start=False)
    assert "engine start" in (refusal.value.hint or "")


def test_a_home_that_cannot_be_made_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineStartFailed, match="cannot be made") as refusal:
        connect(Home(tmp_path / "file" / "home"))
    assert "DSTACK_JUPYTER_HOME" in (refusal.value.hint or "")


def test_an_engine_of_another_version_is_refused_with_what_to_do(own_home: Home) -> None:
    lock = take_lock(own_home)
    assert lock is not None
    publish(own_home, an_address(PROTOCOL + 1))
    with pytest.raises(EngineVersionMismatch, match=r"9\.9\.9") as refusal:
        connect(own_home)
    assert "runs go on" in (refusal.value.hint or "")
    lock.close()


@pytest.mark.parametrize("name", ["", "a/b", "../engine"])
def test_a_name_that_is_no_runs_name_goes_nowhere(own_home: Home, name: str) -> None:
    with pytest.raises(Exception, match="not a run's name"):
        Client(own_home).run(name)
