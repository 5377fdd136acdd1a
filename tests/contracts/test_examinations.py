"""What the hosts tell `doctor`: what is well, what is missing, and the remedy."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, UnixStreamServer

import pytest

from dstack_engine.home import Home
from dstack_engine.hosts import docker_examination, docker_wire
from dstack_engine.hosts.base import Examines
from dstack_engine.hosts.docker import DockerHost
from dstack_engine.hosts.docker_examination import examine, gives_gpus
from dstack_engine.hosts.interpreters import OWN_VERSION, Interpreters
from dstack_engine.hosts.process import ProcessHost
from dstack_engine.hosts.process_examination import examine as examine_process
from dstack_engine.records.findings import Finding
from tests.hosts.engines import Engine


def by_subject(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


class Daemon(UnixStreamServer):
    """Answers like a Docker Engine whose ``/info`` is *info*; has the image ``here``."""

    def __init__(self, path: Path, info: dict[str, object]) -> None:
        self.asked: list[str] = []
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                daemon.asked.append(self.path)
                known = {"/info": info, "/images/here/json": {}}
                body = json.dumps(known.get(self.path, {})).encode()
                self.send_response(200 if self.path in known else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Stay silent."""

        super().__init__(str(path), Handler)


@pytest.fixture
def serve() -> Iterator[Callable[[BaseServer], None]]:
    """Start a server that is ended with the test."""
    servers: list[BaseServer] = []

    def start(server: BaseServer) -> None:
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


Serve = Callable[[BaseServer], None]


def daemon(tmp_path: Path, serve: Serve, **info: object) -> tuple[Daemon, str]:
    found = Daemon(tmp_path / "docker.sock", {"ServerVersion": "99", "Driver": "d", **info})
    serve(found)
    return found, f"unix://{tmp_path}/docker.sock"


# The Docker Engine


@pytest.mark.docker
def test_a_living_engine_tells_version_driver_and_images(
    docker_engine: Engine, python_image: str
) -> None:
    host = DockerHost(docker_engine.host, default_images=[python_image, "dstack-test/none:1"])

    assert isinstance(host, Examines)
    found = list(host.doctor())

    assert all(finding.ok for finding in found if finding.subject in ("docker", "image"))
    assert docker_engine.client.version()["Version"] in found[0].text
    assert "storage driver" in found[0].text
    assert [each.text for each in found if each.subject == "image"] == [
        f"{python_image} is here",
        "dstack-test/none:1 is not here yet; the first run that needs it pulls it",
    ]


def test_a_missing_engine_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"unix://{tmp_path}/none.sock"
    monkeypatch.setenv("PATH", str(tmp_path))

    (missing,) = examine(url, ["any"])
    program = tmp_path / "dockerd"
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (stopped,) = examine(url, ["any"])

    assert (missing.ok, stopped.ok) == (False, False)
    assert "no Docker Engine is installed" in missing.text
    assert missing.fix == "sudo apt-get install docker.io"
    assert "nothing listens there" in stopped.text
    assert stopped.fix == "sudo systemctl start docker"


def test_a_socket_that_one_may_not_use_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Root, who runs these tests, is refused nowhere.
    monkeypatch.setattr(docker_wire, "ask", refuse)

    (found,) = examine("unix:///var/run/docker.sock", [])

    assert not found.ok
    assert "you may not use" in found.text
    assert "usermod -aG docker $USER" in (found.fix or "")


def test_an_engine_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_examination, "TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "docker.sock"))
        silent.listen()

        (found,) = examine(f"unix://{tmp_path}/docker.sock", ["any"])

    assert not found.ok
    assert "no answer in time" in found.text
    assert found.fix


def test_an_address_of_another_kind_is_told(tmp_path: Path) -> None:
    (found,) = examine("ssh://somewhere", [])

    assert not found.ok
    assert "ssh://somewhere is no address" in found.text


def test_gpus_without_the_toolkit_are_a_problem(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _, url = daemon(tmp_path, serve, Runtimes={"runc": {}})

    found = by_subject(examine(url, ["here"], gpus=lambda: ("NVIDIA L4",)))
    without = by_subject(examine(url, ["here"], gpus=tuple))

    assert not found["docker gpus"].ok
    assert "nvidia-ctk" in (found["docker gpus"].fix or "")
    assert "docker gpus" not in without


@pytest.mark.parametrize(
    ("info", "gives"),
    [
        ({"Runtimes": {"runc": {}}}, False),
        ({"Runtimes": None}, False),
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, True),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}, True),
        ({"DiscoveredDevices": [{"Source": "cdi", "ID": "vendor.com/net=0"}]}, False),
    ],
)
def test_who_gives_gpus(
    info: dict[str, object], gives: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert gives_gpus({"Name": socket.gethostname(), **info}) is gives


def test_nvidias_hook_counts_only_where_the_engine_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = tmp_path / "nvidia-container-runtime-hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert gives_gpus({"Name": socket.gethostname()})
    assert not gives_gpus({"Name": "elsewhere"})


def test_whether_gpus_are_given_is_asked_once_a_minute(tmp_path: Path, serve: Serve) -> None:
    away = DockerHost(f"unix://{tmp_path}/docker.sock")
    assert away.gives_gpus() is False

    server, _ = daemon(tmp_path, serve, Runtimes={"nvidia": {}})

    assert [away.gives_gpus() for _ in range(3)] == [True] * 3
    assert server.asked == ["/info"]


# Plain processes


def test_this_computer_is_told_as_a_place_for_processes(home: Path) -> None:
    host = ProcessHost(Home(home))

    assert isinstance(host, Examines)
    found = by_subject(host.doctor())

    assert list(found) == ["bash", "python", "uv", "gpus", "linux"]
    assert OWN_VERSION in found["python"].text
    assert found["bash"].text.endswith("/bash")
    assert found["linux"].ok


def test_what_processes_miss_is_told(tmp_path: Path) -> None:
    def fails() -> tuple[str, ...]:
        raise RuntimeError("nvidia-smi fails: driver mismatch")

    empty = Interpreters(tmp_path, {"PATH": str(tmp_path), "HOME": str(tmp_path)})

    found = by_subject(examine_process(str(tmp_path), empty, fails))

    assert (found["bash"].ok, found["bash"].fix) == (False, "sudo apt-get install bash")
    assert found["uv"].text.startswith("not here")
    assert (found["gpus"].ok, found["gpus"].text) == (False, "nvidia-smi fails: driver mismatch")


def test_gpus_are_counted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA L4\necho NVIDIA L4\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    interpreters = Interpreters(tmp_path, dict(os.environ))

    assert by_subject(examine_process("", interpreters))["gpus"].text == "2 x NVIDIA L4"

    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    gpus = by_subject(examine_process("", interpreters))["gpus"]
    assert (gpus.ok, gpus.text) == (False, "nvidia-smi fails: NVIDIA-SMI has failed")
