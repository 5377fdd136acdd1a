"""Which ports a container is to have is written on it, and read again from there."""

from __future__ import annotations

import pytest

from dstack_engine.hosts.base import ContainerSpec
from dstack_engine.hosts.remote_routes import ROUTES_LABEL, labelled, read_routes
from dstack_engine.records.routes import Route

ROUTES = (Route(8080, 80), Route(9000, 9000, "0.0.0.0"), Route(7000, 70, "::1"))


def test_routes_are_written_on_a_label_and_not_published() -> None:
    spec = ContainerSpec("web", {"a": "b"}, None, routes=ROUTES)

    found = labelled(spec, "home")

    assert found.routes == ()
    assert found.labels == {
        "dstack-jupyter.home": "home",
        "a": "b",
        ROUTES_LABEL: "8080:80,[0.0.0.0]:9000:9000,[::1]:7000:70",
    }
    assert read_routes(found.labels[ROUTES_LABEL]) == ROUTES


def test_a_container_without_routes_has_no_such_label() -> None:
    found = labelled(ContainerSpec("web", {"dstack-jupyter.home": "its own"}, None), "home")

    assert found.labels == {"dstack-jupyter.home": "its own"}


@pytest.mark.parametrize("words", ["x", "1:x", "::", "8080"])
def test_what_somebody_else_wrote_there_is_no_route(words: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_routes(words)
