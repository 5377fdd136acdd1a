"""One gateway has a port, and all of its workers listen to it."""

from __future__ import annotations

import contextlib
import socket

import pytest

from dstack_engine.errors import PortTaken
from dstack_engine.gateway import listening
from dstack_engine.gateway.listening import claim
from tests.gateway.process_ground import DEADLINE, free_port


def close_all(listeners: list[socket.socket]) -> int:
    port = int(listeners[0].getsockname()[1])
    for listener in listeners:
        listener.close()
    return port


def test_a_port_that_is_taken_is_left_to_its_owner_and_the_next_one_is_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        assert port < close_all(claim(port, before=None, workers=1)) <= port + 100


def test_two_gateways_never_share_a_port_though_workers_do() -> None:
    ours = claim(free_port(), before=None, workers=2)
    port = ours[0].getsockname()[1]
    theirs = claim(port, before=None, workers=2)
    assert {each.getsockname()[1] for each in ours} == {port}
    assert close_all(theirs) != close_all(ours)


def test_workers_share_what_arrives() -> None:
    listeners = claim(0, before=None, workers=2)
    port = listeners[0].getsockname()[1]
    with contextlib.ExitStack() as opened:
        for _ in range(64):
            opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        for listener in listeners:
            listener.settimeout(DEADLINE)
            listener.accept()[0].close()
    close_all(listeners)


def test_the_port_of_before_is_had_again_before_the_one_asked_for() -> None:
    asked, before = free_port(), free_port()
    assert close_all(claim(asked, before=before, workers=1)) == before


def test_where_the_port_of_before_stays_taken_another_is_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as owner:
        before = owner.getsockname()[1]
        assert close_all(claim(0, before=before, workers=1)) != before


def test_without_any_free_port_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "NEXT_PORTS", 0)
    with socket.create_server(("127.0.0.1", 0)) as owner, pytest.raises(PortTaken) as taken:
        claim(owner.getsockname()[1], before=None, workers=1)
    assert "gateway: {port:" in str(taken.value.hint)
