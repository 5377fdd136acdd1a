"""What these tests stand on: a real SSH server on loopback, and links to it in a home of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack_engine.home import Home
from dstack_engine.records.machines import SshTarget
from dstack_engine.ssh.links import Link
from dstack_engine.ssh.trust import KnownHosts
from tests.hosts.commands import NoGround
from tests.ssh.servers import Agent, SshServer

MakeServer = Callable[..., SshServer]
MakeLink = Callable[..., Link]


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Starts SSH servers: ``make_server(options="AllowTcpForwarding no")``."""
    made: list[SshServer] = []

    def make(**options: str) -> SshServer:
        try:
            made.append(SshServer(tmp_path / f"server-{len(made)}", **options))
            return made[-1].start()
        except NoGround as error:
            pytest.skip(f"needs openssh-server: {error}")

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def server(make_server: MakeServer) -> SshServer:
    """A server that lets this user in."""
    return make_server()


@pytest.fixture
def user_config(tmp_path: Path) -> Path:
    """A user's own configuration of ssh, which a test may write."""
    path = tmp_path / "user-config"
    path.write_text("")
    path.chmod(0o600)
    return path


@pytest.fixture
def make_link(home: Path, user_config: Path) -> Iterator[MakeLink]:
    """Makes links to targets; their connections are closed in the end."""
    made: list[Link] = []
    folder = Home(home).make().ssh

    def make(target: SshTarget, name: str = "lab-0", at: Path | None = None) -> Link:
        where = at or folder
        where.mkdir(parents=True, exist_ok=True)
        known = KnownHosts(where / "known_hosts")
        made.append(Link(where, name, target, known_hosts=known, user_config=user_config))
        return made[-1]

    yield make
    for link in made:
        link.end()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """An empty agent, which ssh finds."""
    one = Agent(tmp_path / "a")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(one.socket))
    yield one
    one.stop()


@pytest.fixture(autouse=True)
def no_agent_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep keys out of a test that it did not make."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
