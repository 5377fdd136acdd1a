"""An image registry on loopback: the distribution's own docker-registry, with a password if asked.

Tests pull from it with the right and the wrong password, and watch a pull's progress.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import docker
import httpx
import yaml

from tests.hosts import packages
from tests.hosts.engines import wait_for
from tests.hosts.images import CACHE, locked


class Registry:
    """One running registry; images pushed into it are named ``{address}/{repository}``."""

    def __init__(self, *, username: str | None = None, password: str | None = None) -> None:
        self.username = username
        self.password = password
        self._folder = Path(tempfile.mkdtemp(prefix="dstack-test-registry-"))
        self.address = f"127.0.0.1:{_free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def auth(self) -> dict[str, str] | None:
        """The right user name and password as the docker SDK takes them, if there are any."""
        if self.username is None or self.password is None:
            return None
        return {"username": self.username, "password": self.password}

    def start(self) -> None:
        """Start the registry and return once it answers."""
        configuration = self._folder / "config.yml"
        configuration.write_text(yaml.safe_dump(self._configuration()))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [registry_program(), "serve", configuration],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, f"the registry at {self.address}", 30)

    def _configuration(self) -> dict[str, Any]:
        configuration: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "images")}},
            "http": {"addr": self.address, "secret": "for one registry only"},
        }
        if self.username is not None and self.password is not None:
            hashed = bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(rounds=5)).decode()
            (self._folder / "htpasswd").write_text(f"{self.username}:{hashed}\n")
            configuration["auth"] = {
                "htpasswd": {"realm": "test", "path": str(self._folder / "htpasswd")}
            }
        return configuration

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the registry ended: {(self._folder / 'log').read_text()[-1000:]}")
        try:
            status = httpx.get(f"http://{self.address}/v2/", trust_env=False).status_code
        except httpx.TransportError:
            return False
        return status == (401 if self.auth else 200)

    def push(self, client: docker.DockerClient, image: str, repository: str) -> str:
        """Push the engine's *image* as *repository* (``name:tag``); return its name here.

        The engine's own tag of that name is removed again, so the next use must pull it.
        """
        name = f"{self.address}/{repository}"
        client.images.get(image).tag(name)
        try:
            for step in client.images.push(name, auth_config=self.auth, stream=True, decode=True):
                if "error" in step:
                    raise RuntimeError(f"cannot push {name}: {step['error']}")
        finally:
            client.images.remove(name, noprune=True)
        return name

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Let the registry stand still: it takes connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the registry and remove its images."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)


def registry_program() -> Path:
    """Return the registry's program: an installed one, else the package's, fetched and unpacked.

    It is not installed, because the package would also start a service of it on the machine.
    """
    installed = shutil.which("docker-registry")
    if installed:
        return Path(installed)
    folder = CACHE / f"docker-registry-{packages.candidate_version('docker-registry')}"
    with locked("docker-registry"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as partial:
                packages.unpack(["docker-registry"], Path(partial, "root"), Path(partial, "deb"))
                Path(partial, "root").replace(folder)
    return folder / "usr/bin/docker-registry"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
