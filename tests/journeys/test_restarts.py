"""Clients and engines come and go; runs go on, are found again, and no line of output is lost."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dstack_engine.client import Client
from dstack_engine.launcher import connect
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunStatus
from dstack_engine.records.updates import LogWritten, RecordChanged
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import PATIENCE, EngineProcess, jobs_processes, until

#: Counts until it is told that it is enough.
COUNTING = "commands: ['i=0; until [ -e enough ]; do i=$((i+1)); echo $i; sleep 0.01; done']"

SUBMITTER = """
import sys, threading
from pathlib import Path
from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_engine.spec.parsing import parse_configuration
client = connect(Home(Path(sys.argv[1])))
wanted = parse_configuration("type: task\\nname: fox\\ncommands: [echo up, sleep 1000]")
client.submit(wanted, offers=["local/process"])
print("submitted", flush=True)
threading.Event().wait()
"""


@pytest.mark.slow
def test_a_run_outlives_the_kernel_that_submitted_it(engine: EngineProcess, home: Path) -> None:
    engine.home.make().config.write_text("local: {docker: false}\n")
    kernel = subprocess.Popen(
        [sys.executable, "-c", SUBMITTER, str(home)], stdout=subprocess.PIPE, text=True
    )
    assert kernel.stdout is not None
    assert kernel.stdout.readline() == "submitted\n"
    kernel.kill()
    kernel.wait(PATIENCE)
    # The engine was started by the kernel, and is found again by another one.
    with connect(engine.home, start=False) as found:
        engine.until_prints("fox", b"up")
        engine.until("fox", lambda view: view.status is RunStatus.RUNNING)
        assert [view.name for view in found.runs()] == ["fox"]
        found.stop("fox", abort=True)
        engine.until_ended("fox")
        found.stop_engine()


@ON_BOTH_HOSTS
def test_stopping_the_engine_leaves_its_runs(offer: OfferId, engine: EngineProcess) -> None:
    name = engine.start().submit("commands: [echo up, sleep 0.5, echo on my own]", offer).name
    engine.until_prints(name, b"up")
    engine.stop()
    view = engine.start().until_ended(name)
    assert view.status is RunStatus.DONE
    assert engine.output(name) == b"up\non my own\n"


@ON_BOTH_HOSTS
def test_stopping_the_engine_with_its_runs_ends_them_first(
    offer: OfferId, engine: EngineProcess
) -> None:
    text = "commands: ['trap \"echo saved; exit 0\" TERM', echo up, 'while :; do sleep 0.1; done']"
    name = engine.start().submit(text, offer).name
    engine.until_prints(name, b"up")
    engine.client.stop_engine(stop_runs=True)
    engine.wait()
    assert jobs_processes(engine.home) == {}
    view = engine.start().client.run(name)
    assert view.status is RunStatus.TERMINATED
    assert b"saved" in engine.output(name)


@ON_BOTH_HOSTS
@pytest.mark.slow
def test_a_counter_is_contiguous_across_restarts_and_crashes(
    offer: OfferId, engine: EngineProcess
) -> None:
    name = engine.start().submit(COUNTING, offer).name
    heard = Listener(engine.client, name)
    for end in (engine.stop, engine.kill, engine.stop):
        mark = heard.lines + 30
        until(lambda mark=mark: heard.lines >= mark, "more output", engine.log_tail)
        end()
        engine.start()
    engine.until(name, lambda view: view.status is RunStatus.RUNNING)
    engine.client.execute(name, ["touch", "enough"], lambda _stream, _data: None)
    assert engine.until_ended(name).status is RunStatus.DONE
    output = engine.output(name)
    assert output == b"".join(b"%d\n" % number for number in range(1, output.count(b"\n") + 1))
    until(lambda: heard.ended, "the stream to tell the end")
    assert heard.output == output


@ON_BOTH_HOSTS
@pytest.mark.slow
def test_a_port_is_reachable_while_the_engine_is_away(
    offer: OfferId, engine: EngineProcess
) -> None:
    local, inner = free_port(), free_port()
    text = f"ports: ['{local}:{inner}']\ncommands: [python3 -m http.server {inner}]"
    name = engine.start().submit(text, offer).name
    until(lambda: answers(local), f"port {local} to answer", engine.log_tail)
    engine.kill()
    assert answers(local)
    engine.start()
    assert answers(local)
    view = engine.until(name, lambda view: view.status is RunStatus.RUNNING)
    assert [route.local_port for job in view.jobs for route in job.routes] == [local]
    engine.stop()
    assert answers(local)
    engine.start().client.stop(name, abort=True)
    engine.until_ended(name)
    assert not answers(local)


class Listener:
    """Follows a run's output by the event stream, on a thread, through every restart."""

    def __init__(self, client: Client, name: str) -> None:
        self.output = b""
        self.ended = False
        self._client, self._name = client, name
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def lines(self) -> int:
        """How many lines were heard."""
        return self.output.count(b"\n")

    def _listen(self) -> None:
        for update in self._client.updates(logs=[self._name]):
            if isinstance(update, LogWritten):
                self.output += update.frame.payload
            elif isinstance(update, RecordChanged) and update.event.record.status in (
                RunStatus.DONE,
                RunStatus.FAILED,
            ):
                self.ended = True


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    """Tell whether an HTTP server answers on *port* of this computer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        time.sleep(0.05)
        return False
