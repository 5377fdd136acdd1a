"""Many at once: fifty runs on one computer, two clients of one engine, twenty starts of it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dstack_engine.client import Client
from dstack_engine.errors import Conflict
from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_engine.records.jobs import Job
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunStatus
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import PROCESS, EngineProcess, jobs_processes, task, until

#: Fits fifty times on a small computer.
SMALL = "resources: {cpu: 0.., memory: 1MB.., disk: null}\n"


@ON_BOTH_HOSTS
@pytest.mark.slow
def test_fifty_runs_at_once_wait_for_their_turn_and_all_are_done(
    host: str, offer: OfferId, engine: EngineProcess
) -> None:
    at_once = 20 if host == "process" else 6
    engine.settings.append(
        f"local: {{max_jobs: {at_once}, docker: {str(host == 'docker').lower()}}}"
    )
    engine.settings = [line for line in engine.settings if line != "local: {docker: false}"]
    engine.start()
    count = 50 if host == "process" else 16

    def submit(number: int) -> str:
        text = f"name: fox-{number}\n{SMALL}commands: [echo {number}, sleep 0.5]"
        return engine.submit(text, offer).name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(submit, range(count)))
    until(
        lambda: all(engine.client.run(name).finished for name in names),
        "all runs to end",
        engine.log_tail,
        patience=200,
    )
    runs = engine.client.runs(everything=True)
    assert Counter(view.status for view in runs) == {RunStatus.DONE: count}
    assert all(engine.output(f"fox-{n}") == b"%d\n" % n for n in range(count))
    waited, most = _history(engine.client)
    assert waited
    assert all("job" in why or "run" in why for why in waited), waited
    assert most <= at_once
    assert jobs_processes(engine.home) == {}


def _history(client: Client) -> tuple[set[str], int]:
    """Return the reasons for which jobs waited, and how many had a place at once at the most."""
    waited: set[str] = set()
    placed: set[str] = set()
    most, after = 0, 0
    while events := client.events(after=after, limit=5000):
        for event in events:
            after = event.sequence
            if isinstance(event.record, Job):
                job = event.record
                waited |= {job.waiting} if job.waiting else set()
                if job.finished or job.offer is None:
                    placed.discard(job.id)
                else:
                    placed.add(job.id)
                most = max(most, len(placed))
    return waited, most


def test_two_notebooks_share_one_engine(engine: EngineProcess) -> None:
    engine.start()
    with Client(engine.home) as one, Client(engine.home) as other:
        one.submit(task("name: fox\ncommands: [echo up, sleep 1000]"), offers=[PROCESS])
        assert [view.name for view in other.runs()] == ["fox"]
        with pytest.raises(Conflict, match="fox"):
            other.submit(task("name: fox\ncommands: [echo up]"), offers=[PROCESS])
        engine.until_prints("fox", b"up")
        with ThreadPoolExecutor(2) as pool:
            for view in pool.map(lambda client: client.stop("fox", abort=True), [one, other]):
                assert view.name == "fox"
        assert engine.until_ended("fox").status is RunStatus.TERMINATED


CONNECT = """
import sys
from pathlib import Path
from dstack_engine.home import Home
from dstack_engine.launcher import connect
print(connect(Home(Path(sys.argv[1]))).engine().pid)
"""


@pytest.mark.slow
def test_twenty_starts_at_once_give_one_engine(home: Path) -> None:
    Home(home).make().config.write_text("local: {docker: false}\n")
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", CONNECT, str(home)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(20)
    ]
    told = [starter.communicate(timeout=120)[0].strip() for starter in starters]
    assert {starter.returncode for starter in starters} == {0}
    assert len(set(told)) == 1
    with connect(Home(home), start=False) as client:
        assert str(client.engine().pid) == told[0]
        client.stop_engine()


def test_an_engine_that_starts_is_not_put_off_by_those_who_look_for_one(
    engine: EngineProcess,
) -> None:
    looking = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from dstack_engine.home import Home\n"
            "from dstack_engine.address import find_engine\n"
            "home = Home(Path(sys.argv[1]))\n"
            "while True: find_engine(home)",
            str(engine.home.make().root),
        ]
    )
    try:
        engine.home.engine_lock.touch()
        for _ in range(5):
            engine.start()
            assert not engine.ended
            engine.kill()
    finally:
        looking.kill()
        looking.wait()
