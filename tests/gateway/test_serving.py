"""The gateway's process: one for each home, one port, and workers that are replaced."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack_engine.gateway.address import GatewayAddress, find_gateway, take_lock
from dstack_engine.gateway.state import KeptPublication
from dstack_engine.home import Home
from dstack_engine.records.publication import Publication, PublishedService
from tests.gateway.process_ground import DEADLINE, Gateway, free_port, is_alive, until, workers_of
from tests.hosts.commands import REPOSITORY

pytestmark = pytest.mark.slow

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts a gateway's process; what is left of it is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, hurried: str = "") -> subprocess.Popen[bytes]:
        code = f"from dstack_engine.gateway import __main__, serving; {hurried}; __main__.main()"
        how = ["-c", code] if hurried else ["-m", "dstack_engine.gateway"]
        command = [sys.executable, *how, "--home", str(home), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "engine")}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)


def await_gateway(home: Path) -> GatewayAddress:
    found: list[GatewayAddress] = []

    def there() -> bool:
        address = find_gateway(Home(home))
        if address is None or not (Home(home).gateway / "control-0.sock").exists():
            return False
        found.append(address)
        return True

    until(there)
    return found[-1]


def connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def test_one_home_has_one_gateway(home: Path, start: Start) -> None:
    first = start("--port", "0")
    address = await_gateway(home)
    assert address.pid == first.pid
    assert start("--port", "0").wait(DEADLINE) == 0
    assert find_gateway(Home(home)) == address


def test_a_killed_workers_place_is_taken_and_connections_wait_for_that(
    home: Path, start: Start
) -> None:
    start("--port", "0")
    address = await_gateway(home)
    (worker,) = workers_of(address.pid)
    os.kill(worker, signal.SIGSTOP)
    with socket.create_connection(("127.0.0.1", address.port)) as early:
        early.settimeout(DEADLINE)
        early.sendall(b"GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n")
        os.kill(worker, signal.SIGKILL)
        assert early.recv(4096).startswith(b"HTTP/1.1 421")
    assert workers_of(address.pid) != [worker]
    assert find_gateway(Home(home)) == address


def test_a_worker_that_hangs_is_replaced(home: Path, start: Start) -> None:
    start("--port", "0", hurried="serving.HANGS_AFTER = 1.0")
    address = await_gateway(home)
    (worker,) = workers_of(address.pid)
    os.kill(worker, signal.SIGSTOP)
    until(lambda: workers_of(address.pid) not in ([], [worker]))
    with socket.create_connection(("127.0.0.1", address.port)) as client:
        client.settimeout(DEADLINE)
        client.sendall(b"GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 421")


def test_a_gateway_whose_engine_and_replicas_are_all_gone_ends_after_a_while(
    home: Path, start: Start
) -> None:
    kept = KeptPublication(Home(home).make().gateway / "publication.json")
    kept.save(Publication(1, (PublishedService("web", "id-web"),)))
    process = start(
        "--port",
        "0",
        hurried="from dstack_engine.gateway import worker; worker.FORSAKEN_LIMIT = 0.2",
    )
    assert process.wait(DEADLINE) == 0


def test_told_to_end_it_ends_with_its_workers_and_lets_go_of_everything(
    home: Path, start: Start
) -> None:
    process = start("--port", "0", "--processes", "2")
    address = await_gateway(home)
    workers = workers_of(address.pid)
    assert len(workers) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0
    assert not any(is_alive(worker) for worker in workers)
    assert not connects(address.port)
    lock = take_lock(Home(home))
    assert lock is not None
    lock.close()
    assert list(Home(home).gateway.glob("*.sock")) == []


def test_when_the_first_process_is_killed_the_workers_let_the_port_go_and_end(
    home: Path, start: Start
) -> None:
    process = start("--port", "0")
    address = await_gateway(home)
    (worker,) = workers_of(address.pid)
    process.kill()
    process.wait(DEADLINE)
    until(lambda: not is_alive(worker))
    assert not connects(address.port)
    again = start("--port", "0")
    until(lambda: find_gateway(Home(home)) is not None)
    found = find_gateway(Home(home))
    assert found is not None
    assert (found.pid, found.port) == (again.pid, address.port)


def test_a_gateway_that_nobody_needs_ends(home: Path, start: Start) -> None:
    assert start("--port", "0", "--idle-limit", "0.1").wait(DEADLINE) == 0


def test_a_gateway_whose_home_is_removed_ends(home: Path, start: Start) -> None:
    process = start("--port", "0")
    (worker,) = workers_of(await_gateway(home).pid)
    shutil.rmtree(home)
    assert process.wait(DEADLINE) == 0
    assert not is_alive(worker)


def test_its_files_are_the_users_alone_and_its_log_tells_no_secrets(
    home: Path, gateway: Gateway
) -> None:
    gateway.publish("web", free_port(), auth=True)
    status, _ = gateway.get(
        "/services/web/?secret=in-the-query", Authorization="Bearer a-wrong-token"
    )
    assert status == 401
    log = Home(home).gateway / "gateway.log"
    assert "listens on 127.0.0.1" in log.read_text()
    for file in Home(home).gateway.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
        if file.is_file():
            assert b"in-the-query" not in file.read_bytes()
            assert b"a-wrong-token" not in file.read_bytes()


def test_it_listens_on_loopback_alone_and_to_as_many_as_the_computer_allows(
    gateway: Gateway,
) -> None:
    gateway.publish("web", free_port())
    (worker,) = workers_of(gateway.pid)
    limits = Path(f"/proc/{worker}/limits").read_text()
    (line,) = [line.split() for line in limits.splitlines() if "open files" in line]
    assert line[3] == line[4]
    port = f"{gateway.port:04X}"
    table = [row.split()[1:4] for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [local for local, _, state in table if local.endswith(f":{port}") and state == "0A"]
    assert listening == [f"0100007F:{port}"]
