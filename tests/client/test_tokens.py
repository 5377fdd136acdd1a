"""The user's token: made once, in a file of the user alone."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from dstack_engine.client import Client
from dstack_engine.errors import NotFound
from dstack_engine.home import Home
from dstack_engine.tokens import digest_of, make_token, read_token


def test_a_token_is_made_once_and_is_the_users_alone(home: Path) -> None:
    own = Home(home).make()
    token = make_token(own)
    assert len(token) >= 40
    assert make_token(own) == read_token(own) == token
    assert stat.S_IMODE(own.token.stat().st_mode) == 0o600
    assert {path.name for path in own.root.iterdir() if path.name.startswith("token")} == {"token"}
    with Client(own) as client:
        assert client.token() == token


def test_before_any_engine_there_is_none_and_the_hint_says_what_makes_it(home: Path) -> None:
    with pytest.raises(NotFound) as refusal, Client(Home(home)) as client:
        client.token()
    assert "%dstack engine start" in (refusal.value.hint or "")


def test_an_empty_file_is_no_token(home: Path) -> None:
    own = Home(home).make()
    own.token.write_text("\n")
    assert make_token(own) == own.token.read_text().strip() != ""


def test_what_the_gateway_is_told_is_its_digest(home: Path) -> None:
    token = make_token(Home(home).make())
    assert digest_of(token) == hashlib.sha256(token.encode()).hexdigest()
