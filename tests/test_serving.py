"""What the engine makes of its settings and its environment when it opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack_engine.home import Home
from dstack_engine.hosts.docker import DockerHost
from dstack_engine.reconcilers.loop import no_checkpoint
from dstack_engine.records.offers import HostKind
from dstack_engine.serving import open_world


def docker_url(folder: Path, config: str = "") -> str:
    """Return where the engine of a home with *config* looks for Docker."""
    home = Home(folder)
    home.make()
    home.config.write_text(config)
    world = open_world(home, no_checkpoint)
    world.store.close()
    host = world.hosts[HostKind.DOCKER]
    assert isinstance(host, DockerHost)
    return host.base_url


def test_docker_is_where_the_settings_say_or_the_environment_or_as_usual(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert docker_url(home) == "unix:///var/run/docker.sock"

    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    assert docker_url(home) == "unix:///run/user/1000/docker.sock"

    config = "local:\n  docker_host: unix:///run/mine.sock\n"
    assert docker_url(home, config) == "unix:///run/mine.sock"
