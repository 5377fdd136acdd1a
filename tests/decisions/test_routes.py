"""At which local port each port of a job is reached."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest

from dstack_engine.decisions.routes import choose_routes, choose_service_routes
from dstack_engine.errors import Conflict
from dstack_engine.records.offers import HostKind
from dstack_engine.records.routes import Route
from dstack_engine.spec.configurations import TaskConfiguration
from tests.decisions.samples import wants

DOCKER, PROCESS = HostKind.DOCKER, HostKind.PROCESS


def routes(
    ports: str,
    host: HostKind = DOCKER,
    *,
    taken: Collection[int] = (),
    ours: Mapping[int, str] | None = None,
    lowest_port: int = 1,
) -> list[tuple[int, int]]:
    """Return (local, container) for what is written under `ports`."""
    wanted = wants(f"ports: [{ports}]")
    assert isinstance(wanted, TaskConfiguration)
    is_taken: Callable[[int], bool] = set(taken).__contains__
    found = choose_routes(
        wanted.ports, host, ours=ours or {}, is_taken=is_taken, lowest_port=lowest_port
    )
    return [(route.local_port, route.container_port) for route in found]


def refusal(ports: str, host: HostKind = DOCKER, **known: object) -> tuple[str, str | None]:
    with pytest.raises(Conflict) as caught:
        routes(ports, host, **known)  # type: ignore[arg-type]
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize("host", [DOCKER, PROCESS])
@pytest.mark.parametrize(
    ("ports", "found"),
    [
        ("", []),
        ("8080", [(8080, 8080)]),
        ("'80:8080'", [(80, 8080)]),
        ("'*:8080'", [(8080, 8080)]),
        ("{local_port: 3000, container_port: 8080}", [(3000, 8080)]),
        ("{container_port: 8080}", [(8080, 8080)]),
        ("8080, '*:9090', '3000:70'", [(8080, 8080), (9090, 9090), (3000, 70)]),
    ],
)
def test_every_form_of_a_port_gets_a_route(
    host: HostKind, ports: str, found: list[tuple[int, int]]
) -> None:
    assert routes(ports, host) == found


def test_a_route_listens_on_loopback() -> None:
    wanted = wants("ports: [8080]")
    assert isinstance(wanted, TaskConfiguration)
    found = choose_routes(wanted.ports, DOCKER, ours={}, is_taken=lambda _: False)
    assert found == (Route(8080, 8080, "127.0.0.1"),)


def test_a_star_is_the_next_free_port_above_when_its_own_is_taken() -> None:
    assert routes("'*:8080'", taken={8080, 8082}, ours={8081: "web"}) == [(8083, 8080)]


def test_a_star_leaves_the_ports_that_the_author_names_alone() -> None:
    assert routes("'*:8080', '8080:9000'") == [(8081, 8080), (8080, 9000)]
    assert routes("'*:8080', '*:8081'", taken={8080}) == [(8081, 8080), (8082, 8081)]


def test_a_port_that_a_run_uses_names_it_and_the_choices() -> None:
    assert refusal("8080", ours={8080: "web", 8081: "web"}) == (
        "port 8080 is in use by run web",
        'write `"*:8080"` or `"8082:8080"` under `ports`, or pass `-p 8082:8080`',
    )


def test_a_port_that_somebody_else_uses_is_refused_too() -> None:
    assert refusal("'8888:80'", taken={8888}) == (
        "port 8888 is in use by another program",
        'write `"*:80"` or `"8889:80"` under `ports`, or pass `-p 8889:80`',
    )


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ("8080, '9000:8080'", "the container port 8080 is given twice in `ports`"),
        ("'9000:1', '9000:2'", "the local port 9000 is given twice in `ports`"),
    ],
)
def test_a_port_given_twice_is_refused(ports: str, message: str) -> None:
    assert refusal(ports)[0] == message


def test_when_no_port_above_is_free_it_is_said() -> None:
    message, hint = refusal("'*:65534'", taken={65534, 65535})
    assert message == "no port from 65534 to 65535 is free"
    assert hint == 'write `"*:65534"` for any free port, or name one, as in `"8081:65534"`'


# --- plain processes --------------------------------------------------------------------------


def test_a_plain_process_listens_on_this_computer_so_its_own_port_must_be_free() -> None:
    for ports in ("8080", "'*:8080'", "'9000:8080'"):
        message, hint = refusal(ports, PROCESS, ours={8080: "web"})
        assert message == (
            "port 8080 is in use by run web, and a plain process listens on this computer itself"
        )
        assert hint == (
            "stop it (`%dstack stop web`), have the program listen on another port, "
            "or choose an offer with Docker"
        )


def test_a_forward_cannot_listen_where_the_run_itself_does() -> None:
    message, _ = refusal("'9000:8080', 9000", PROCESS)
    assert message == "the local port 9000 is given twice in `ports`"
    message, hint = refusal("'9000:8080', '9001:9000'", PROCESS)
    assert message == "port 9000 is in use by this run itself"
    assert hint is not None
    assert "`-p 9002:8080`" in hint


def test_ports_kept_for_root_are_refused_where_somebody_else_listens() -> None:
    assert refusal("80", PROCESS, lowest_port=1024) == (
        "port 80 is kept for root: a plain process of yours can only listen on ports from 1024",
        "have the program listen on a higher port, or choose an offer with Docker",
    )
    assert refusal("'80:8080'", PROCESS, lowest_port=1024) == (
        "port 80 is kept for root: yours are the ports from 1024",
        'write `"*:8080"` or `"8081:8080"` under `ports`, or pass `-p 8081:8080`',
    )
    assert refusal("80", DOCKER, lowest_port=1024)[0] == (
        "port 80 is kept for root: yours are the ports from 1024"
    )
    assert routes("80", DOCKER) == [(80, 80)]


def chosen_for_replica(host: HostKind, taken: Collection[int] = (), **how: object) -> Route:
    given = {"own_ports": True, "seed": 7, "ours": {}, **how}
    (route,) = choose_service_routes(8000, host, is_taken=lambda port: port in taken, **given)  # type: ignore[arg-type]
    return route


def test_a_replica_in_docker_listens_on_its_services_port_and_is_published_at_a_free_one() -> None:
    assert chosen_for_replica(DOCKER) == Route(21007, 8000)
    assert chosen_for_replica(DOCKER, ours={21007: "owl"}) == Route(21008, 8000)


def test_a_plain_replica_is_given_a_port_of_its_own_where_it_asks_for_one() -> None:
    assert chosen_for_replica(PROCESS, taken=[21007, 21008]) == Route(21009, 21009)


def test_a_plain_replica_that_asks_for_none_has_the_services_port_or_none() -> None:
    assert chosen_for_replica(PROCESS, own_ports=False) == Route(8000, 8000)
    with pytest.raises(Conflict, match="in use by another program") as refusal:
        chosen_for_replica(PROCESS, own_ports=False, taken=[8000])
    assert "$DSTACK_SERVICE_PORT" in (refusal.value.hint or "")
