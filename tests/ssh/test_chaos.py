"""A connection that is killed again and again under many users: in the end all is as meant."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from dstack_engine.errors import HostUnreachable, PortTaken
from dstack_engine.home import Home
from dstack_engine.hosts.base import ContainerSpec
from dstack_engine.hosts.remote import RemoteMachines
from dstack_engine.records.routes import Route
from tests.contracts.hosts import a_machine
from tests.hosts.bed import Bed
from tests.hosts.engines import wait_for
from tests.ssh.test_remote_machines import answers, free_port, listens

pytestmark = [pytest.mark.docker, pytest.mark.soak]

SECONDS = 40.0
WORKERS = 6


def masters(home: Path) -> list[int]:
    """Return the processes that hold a connection for *home*."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"-M" in words and (folder / "cwd").readlink() == home / "ssh":
                found.append(int(folder.name))
    return found


def again(act: Callable[[], object], until: float) -> None:
    """Do it until it is done, as the loops do."""
    while True:
        try:
            act()
            return
        except HostUnreachable:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def test_many_users_of_a_connection_that_is_killed_all_the_time(
    bed: Bed, busybox_image: str, home: Path
) -> None:
    machines = RemoteMachines(Home(home).make())
    instance = a_machine(bed.hosts[0].target())
    host = machines.host(instance)
    over = time.monotonic() + SECONDS
    troubles: list[BaseException] = []
    left: dict[str, int] = {}

    def work(worker: int) -> None:
        for turn in range(1000):
            name, port = f"w-{worker}-{turn}", free_port()
            script = "exec httpd -f -p 8000 -h /etc"
            spec = ContainerSpec(name, {}, script, image=busybox_image, routes=(Route(port, 8000),))
            log = Home(home).logs / name
            try:
                again(lambda: host.start(spec, None, log), over + 60)  # noqa: B023
            except PortTaken:
                continue
            again(lambda: host.look(name), over + 60)  # noqa: B023
            if time.monotonic() > over:
                left[name] = port
                return
            again(lambda: host.remove(name), over + 60)  # noqa: B023

    def tried(worker: int) -> None:
        try:
            work(worker)
        except BaseException as error:
            troubles.append(error)

    def ping() -> None:
        while time.monotonic() < over:
            machines.ping(instance)
            time.sleep(1)

    threads = [threading.Thread(target=tried, args=(number,)) for number in range(WORKERS)]
    threads.append(threading.Thread(target=ping))
    for thread in threads:
        thread.start()
    while time.monotonic() < over:
        time.sleep(random.uniform(0.3, 3))
        for master in masters(home):
            with suppress(ProcessLookupError):
                os.kill(master, signal.SIGKILL)
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()

    assert troubles == []
    wait_for(lambda: machines.ping(instance) is None, "the connection")
    assert bed.hosts[0].containers(running=True) == sorted(left)
    assert all(map(answers, left.values()))
    assert len(masters(home)) == 1
    machines.release(instance)
    assert not any(map(listens, left.values()))
    assert masters(home) == []
