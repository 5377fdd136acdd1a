"""What hosts that are reached by SSH stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.commands import NoGround
from tests.ssh.servers import SshServer


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """An SSH server on loopback that lets this user in."""
    try:
        server = SshServer(tmp_path_factory.mktemp("sshd")).start()
    except NoGround as error:
        pytest.skip(f"needs openssh-server: {error}")
    yield server
    server.stop()
