"""Forwards: what a master was told is known to the next engine, and truth is asked anew."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from dstack_engine.errors import HostUnreachable, PortTaken
from dstack_engine.ssh.forwards import Forward
from tests.hosts.engines import wait_for
from tests.ssh.conftest import MakeLink, MakeServer
from tests.ssh.servers import SshServer

pytestmark = pytest.mark.slow


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server on the machine that gives back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.sendall(connection.recv(100))
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def comes_back(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"hello")
            return client.recv(100) == b"hello"
    except OSError:
        return False


def test_a_forward_leads_to_the_machine_until_it_is_closed(
    server: SshServer, make_link: MakeLink, echo: int
) -> None:
    link = make_link(server.target)
    link.reach(20)
    forward = Forward("127.0.0.1", free_port(), "127.0.0.1", echo)

    link.forwards.open(forward, "web")
    link.forwards.open(forward, "web")
    assert comes_back(forward.local_port)
    link.forwards.close_of("web")

    assert not comes_back(forward.local_port)
    assert link.forwards.held() == {}


def test_the_next_engine_knows_them_and_opens_those_that_were_only_wished(
    server: SshServer, make_link: MakeLink, echo: int
) -> None:
    first = make_link(server.target)
    first.reach(20)
    opened, wished = (Forward("127.0.0.1", free_port(), "127.0.0.1", echo) for _ in range(2))
    first.forwards.open(opened, "web")
    file = first.config.with_suffix(".forwards")
    file.write_text(
        file.read_text() + f"127.0.0.1 {wished.local_port} 127.0.0.1 {wished.port} other\n"
    )

    second = make_link(server.target)
    second.reach(20)

    assert second.forwards.held() == {opened: "web", wished: "other"}
    for forward, owner in second.forwards.held().items():
        second.forwards.open(forward, owner)
        assert comes_back(forward.local_port)


def test_a_new_connection_holds_none(server: SshServer, make_link: MakeLink, echo: int) -> None:
    link = make_link(server.target)
    link.reach(20)
    forward = Forward("127.0.0.1", free_port(), "127.0.0.1", echo)
    link.forwards.open(forward, "web")

    link.drop()
    link.reach(20)

    assert link.forwards.held() == {}
    link.forwards.open(forward, "web")
    assert comes_back(forward.local_port)


def test_a_port_that_is_taken_is_told_and_not_held(
    server: SshServer, make_link: MakeLink, echo: int
) -> None:
    link = make_link(server.target)
    link.reach(20)

    with pytest.raises(PortTaken, match=f"port {echo} is already used on this computer"):
        link.forwards.open(Forward("127.0.0.1", echo, "127.0.0.1", echo), "web")

    assert link.forwards.held() == {}


def test_none_can_be_opened_without_a_connection(
    server: SshServer, make_link: MakeLink, echo: int
) -> None:
    link = make_link(server.target)

    with pytest.raises(HostUnreachable):
        link.forwards.open(Forward("127.0.0.1", free_port(), "127.0.0.1", echo), "web")


def test_every_address_of_this_computer_can_be_listened_on(
    server: SshServer, make_link: MakeLink, echo: int
) -> None:
    link = make_link(server.target)
    link.reach(20)
    forward = Forward("0.0.0.0", free_port(), "127.0.0.1", echo)

    link.forwards.open(forward, "web")

    assert comes_back(forward.local_port)


@pytest.mark.parametrize("option", ["yes", "no"])
def test_whether_ports_can_be_forwarded_is_tried(
    make_server: MakeServer, make_link: MakeLink, option: str
) -> None:
    server = make_server(options=f"AllowTcpForwarding {option}")
    link = make_link(server.target)
    link.reach(20)

    why = link.try_forward("127.0.0.1", server.port)

    assert (why is None) == (option == "yes")
    assert why is None or "administratively prohibited" in why


def test_many_open_and_close_at_once(server: SshServer, make_link: MakeLink, echo: int) -> None:
    link = make_link(server.target)
    link.reach(20)
    forwards = [Forward("127.0.0.1", free_port(), "127.0.0.1", echo) for _ in range(10)]
    threads = [
        threading.Thread(target=link.forwards.open, args=(forward, f"web-{number}"))
        for number, forward in enumerate(forwards)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(comes_back(forward.local_port) for forward in forwards)
    link.forwards.close(forwards)
    wait_for(lambda: not any(comes_back(f.local_port) for f in forwards), "all to be closed")
