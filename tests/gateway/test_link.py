"""The engine's link: the gateway is there when it is wanted, and knows what is published."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dstack_engine.gateway import link as module
from dstack_engine.gateway.address import find_gateway
from dstack_engine.home import Home
from dstack_engine.records.publication import Publication, PublishedService
from tests.gateway.process_ground import (
    Gateway,
    a_link,
    free_port,
    is_alive,
    kill,
    replica,
    until,
    workers_of,
)
from tests.hosts.commands import REPOSITORY

pytestmark = pytest.mark.slow


def test_without_services_no_gateway_is_started(home: Path) -> None:
    link = a_link(home)
    link.start()
    link.publish(Publication(1))
    assert find_gateway(Home(home)) is None
    assert (link.port, link.report, link.trouble) == (None, None, None)
    link.stop(gateway_too=True)


def test_the_first_service_starts_the_gateway_which_serves_it(gateway: Gateway) -> None:
    with replica() as web:
        gateway.publish("web", web.port)
        gateway.await_ready("web")
        assert gateway.get("/services/web/") == (200, b"hello")
        assert gateway.report.port == gateway.port


def test_the_gateway_outlives_the_engine_and_the_next_one_finds_it(gateway: Gateway) -> None:
    with replica() as web:
        gateway.publish("web", web.port)
        gateway.await_ready("web")
        pid, port = gateway.pid, gateway.port
        gateway.link.stop()
        assert gateway.link.port is None
        connected = gateway.connect()
        until(lambda: connected.report is not None)
        assert (gateway.pid, gateway.port) == (pid, port)
        assert gateway.get("/services/web/") == (200, b"hello")
        gateway.publish("other", web.port)
        assert {service.run for service in gateway.report.services} == {"web", "other"}


def test_a_killed_gateway_is_back_at_the_same_port_with_all_routes(gateway: Gateway) -> None:
    with replica() as web:
        gateway.publish("web", web.port)
        gateway.publish("other", web.port)
        gateway.await_ready("other")
        pid, port = gateway.pid, gateway.port
        os.kill(pid, signal.SIGKILL)
        until(lambda: gateway.link.report is not None and gateway.pid != pid)
        assert gateway.port == port
        assert gateway.get("/services/web/") == (200, b"hello")
        assert gateway.get("/services/other/") == (200, b"hello")


def test_a_killed_worker_is_told_again_what_is_published(gateway: Gateway) -> None:
    with replica() as web:
        gateway.publish("web", web.port)
        gateway.await_ready("web")
        (worker,) = workers_of(gateway.pid)
        (Home(gateway.home).gateway / "publication.json").unlink()
        kill(worker)
        until(lambda: workers_of(gateway.pid) not in ([], [worker]))
        assert gateway.get("/services/web/")[0] in (200, 404)  # 404 until it has been told
        until(lambda: gateway.get("/services/web/") == (200, b"hello"))


def test_what_an_engine_says_counts_though_its_clock_was_set_back(gateway: Gateway) -> None:
    gateway.publish("web", free_port())
    gateway.link.publish(Publication(-5, (PublishedService("later", "id-later"),)))
    until(lambda: gateway.report.version == -5)
    assert [service.run for service in gateway.report.services] == ["later"]


def test_a_gateway_with_another_port_or_number_of_workers_gives_way(home: Path) -> None:
    first = Gateway(home)
    with replica() as web:
        first.publish("web", web.port)
        pid = first.pid
        first.link.stop()
        asked = free_port()
        second = Gateway(home, port=asked, processes=2)
        try:
            second.publish("web", web.port)
            second.await_ready("web")
            assert second.pid != pid
            assert second.get("/services/web/") == (200, b"hello")
            assert len(workers_of(second.pid)) == 2
            until(lambda: not is_alive(pid))
        finally:
            second.close()


def test_several_workers_are_all_told_and_their_reports_are_one(home: Path) -> None:
    gateway = Gateway(home, processes=3)
    try:
        with replica() as web:
            gateway.publish("web", web.port)
            gateway.await_ready("web")
            until(lambda: {gateway.get("/services/web/")[0] for _ in range(12)} == {200})
            asked = len(web.requests)
            until(lambda: gateway.report.services[0].requests >= asked)
            assert [s.run for s in gateway.report.services] == ["web"]
    finally:
        gateway.close()


def test_a_gateway_that_cannot_start_is_said_why_and_tried_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_REST", 0.05)
    changed = threading.Event()
    link = a_link(home, on_change=changed.set)
    Home(home).make()
    broken = Home(home).gateway / "gateway.log"
    broken.mkdir()
    try:
        link.start()
        link.publish(Publication(1, (PublishedService("web", "id-web"),)))
        until(lambda: link.trouble is not None)
        assert changed.is_set()
        assert link.trouble is not None
        assert "could not be started (exit code 1)" in link.trouble
        assert "Is a directory" in link.trouble
        broken.rmdir()
        until(lambda: link.port is not None)
        assert link.trouble is None
    finally:
        link.stop(gateway_too=True)


def test_a_gateway_that_does_not_answer_is_said_to_and_forgiven(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 1.5)
    gateway.publish("web", free_port())
    (worker,) = workers_of(gateway.pid)
    os.kill(worker, signal.SIGSTOP)
    until(lambda: gateway.link.trouble is not None)
    assert "does not answer; see" in str(gateway.link.trouble)
    os.kill(worker, signal.SIGCONT)
    until(lambda: gateway.link.trouble is None)
    assert gateway.link.report is not None


def test_the_engines_side_needs_none_of_the_proxys_libraries() -> None:
    check = (
        "import sys, dstack_engine.gateway.link; print({'aiohttp', 'uvloop'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "engine")}
    done = subprocess.run(
        [sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_told_to_take_the_gateway_along_the_link_ends_it(gateway: Gateway) -> None:
    gateway.publish("web", free_port())
    pid = gateway.pid
    gateway.link.stop(gateway_too=True)
    assert find_gateway(Home(gateway.home)) is None
    until(lambda: not is_alive(pid))
