"""What benchmarks of the page stand on: a Lab with and without the extension, and many runs.

The two servers share a home, so that both show the same; a page of either has cookies and a cache
of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from dstack_engine.home import Home
from dstack_engine.records.jobs import Job, JobId, JobReason, JobStatus
from dstack_engine.records.runs import Run, RunId, RunReason, RunStatus
from dstack_engine.spec.configurations import TaskConfiguration
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_engine.store.store import Store
from tests.browser import chromium
from tests.browser.lab import LabServer

EXTENSION = "dstack-jupyter"


@dataclass(frozen=True)
class Ground:
    """A browser, and the servers whose pages it looks at."""

    browser: Browser
    ours: LabServer
    #: The same without the extension's front end.
    bare: LabServer


@contextmanager
def labs() -> Iterator[Ground]:
    """Both servers and a browser, in the home that the environment names."""
    with tempfile.TemporaryDirectory(prefix="dstack-bench-lab-") as folder, sync_playwright() as p:
        ours = LabServer(Path(folder, "ours"))
        bare = LabServer(Path(folder, "bare"), disabled=[EXTENSION])
        with chromium.launched(p) as browser:
            try:
                ours.start()
                bare.start()
                yield Ground(browser, ours, bare)
            finally:
                ours.stop()
                bare.stop()


@contextmanager
def page_of(ground: Ground, lab: LabServer) -> Iterator[Page]:
    """A page with an empty Lab, its sidebars as they are at first."""
    with chromium.loopback_page(ground.browser) as page:
        lab.visit(page)
        yield page


def task_seconds(page: Page) -> float:
    """Return the processor time that the page's main thread has worked so far, in seconds."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    metrics = session.send("Performance.getMetrics")["metrics"]
    session.detach()
    return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))


def run_name(number: int) -> str:
    """Return the name of one of the runs that `fill` makes."""
    return f"old-run-{number:04}"


def fill(home: Home, count: int) -> None:
    """Write so many runs that ended into the database of a home whose engine does not run."""
    now = datetime.now(timezone.utc)
    task = configuration_from_dict({"type": "task", "commands": ["python train.py"]})
    assert isinstance(task, TaskConfiguration)
    with closing(Store(home.database)) as store, store.transaction(now) as transaction:
        for number in range(count):
            begun = now - timedelta(minutes=count - number)
            run, job = _ended(number, task, begun, begun + timedelta(seconds=40))
            transaction.insert(run)
            transaction.insert(job)


def _ended(
    number: int, task: TaskConfiguration, begun: datetime, ended: datetime
) -> tuple[Run, Job]:
    name, failed = run_name(number), number % 7 == 0
    run = Run(
        RunId(f"run-{number}"),
        name,
        task,
        RunStatus.FAILED if failed else RunStatus.DONE,
        since=ended,
        submitted_at=begun,
        reason=RunReason.JOB_FAILED if failed else RunReason.ALL_JOBS_DONE,
        started_at=begun,
        finished_at=ended,
        project="/home/somebody/project",
    )
    job = Job(
        JobId(f"{name}-0-0/1"),
        run.id,
        name,
        node=0,
        replica=0,
        attempt=1,
        status=JobStatus.FAILED if failed else JobStatus.DONE,
        since=ended,
        submitted_at=begun,
        reason=JobReason.CONTAINER_EXITED_WITH_ERROR if failed else JobReason.DONE_BY_RUNNER,
        exit_code=1 if failed else 0,
        placed_at=begun,
        started_at=begun,
        finished_at=ended,
    )
    return run, job
