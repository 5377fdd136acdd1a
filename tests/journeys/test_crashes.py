"""`kill -9` of the engine between any two steps of a run: afterwards it ends as it would have.

Every walk lives through the same short run again and again; each time the engine dies one step
later, and a second engine takes over. What must hold is the same each time: how the run ends, that
every attempt's command began exactly once, that its output is complete, and that nothing is left.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from dstack_engine.errors import EngineDown, EngineError, NotFound
from dstack_engine.home import Home
from dstack_engine.hosts.logs import STDOUT, LogReader
from dstack_engine.reconcilers.containers import home_labels
from dstack_engine.records.jobs import Job, JobReason
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunReason, RunStatus, RunView
from dstack_engine.spec.parsing import parse_configuration
from tests.conftest import end_processes_of, remove_containers_of
from tests.journeys.engines import DOCKER, PROCESS, EngineProcess, jobs_processes, until
from tests.journeys.witness import Witness, computers_address

#: So many crashes are lived through at once.
AT_ONCE = 3


@dataclass(frozen=True)
class Story:
    """A short run and how it ends when nobody crashes."""

    name: str
    #: Commands after the report to the witness.
    commands: Sequence[str]
    status: RunStatus
    reason: RunReason
    #: Of each attempt: its reason, and its standard output.
    attempts: Sequence[tuple[JobReason, bytes]]
    options: str = ""
    #: Whether somebody stops it once it has printed.
    stopped: bool = False
    type: str = "task"


STORIES = {
    story.name: story
    for story in [
        Story(
            "success",
            ["for i in 1 2 3; do echo line $i; sleep 0.05; done"],
            RunStatus.DONE,
            RunReason.ALL_JOBS_DONE,
            [(JobReason.DONE_BY_RUNNER, b"line 1\nline 2\nline 3\n")],
        ),
        Story(
            "failure",
            ["echo so far", "exit 3"],
            RunStatus.FAILED,
            RunReason.JOB_FAILED,
            [(JobReason.CONTAINER_EXITED_WITH_ERROR, b"so far\n")],
        ),
        Story(
            "stop",
            ["trap 'echo saved; exit 0' TERM", "echo working", "while :; do sleep 0.05; done"],
            RunStatus.TERMINATED,
            RunReason.STOPPED_BY_USER,
            [(JobReason.TERMINATED_BY_USER, b"working\nsaved\n")],
            stopped=True,
        ),
        Story(
            "retry",
            ["echo attempt $count", "test $count = 2"],
            RunStatus.DONE,
            RunReason.ALL_JOBS_DONE,
            [
                (JobReason.CONTAINER_EXITED_WITH_ERROR, b"attempt 1\n"),
                (JobReason.DONE_BY_RUNNER, b"attempt 2\n"),
            ],
            options="retry: {on_events: [error], duration: 1h}\n",
        ),
        Story(
            "service",
            [
                "trap 'echo saved; exit 0' TERM",
                "if test $count = 1; then echo so far; exit 3; fi; echo working",
                ": listens nowhere, least of all at $DSTACK_SERVICE_PORT",
                "while :; do sleep 0.05; done",
            ],
            RunStatus.TERMINATED,
            RunReason.STOPPED_BY_USER,
            [
                (JobReason.CONTAINER_EXITED_WITH_ERROR, b"so far\n"),
                (JobReason.TERMINATED_BY_USER, b"working\nsaved\n"),
            ],
            options="port: 8000\n",
            stopped=True,
            type="service",
        ),
    ]
}


@dataclass
class Walk:
    """One story on one host, lived through with a crash at any step."""

    story: Story
    offer: OfferId
    settings: list[str]
    witness: Witness
    folder: Path

    def live(self, *kill_at: int) -> list[str]:
        """Live through the story with engines that die at these steps of theirs; return the steps.

        The engine that follows the last of them lives.
        """
        name = "-".join([self.story.name, *map(str, kill_at)])
        home = Home(self.folder / name)
        engine = EngineProcess(home, self.settings)
        steps = home.make().root / "steps"
        try:
            lives = iter(kill_at)
            engine.start(kill_at=next(lives, 0), steps=steps)
            view = self._follow(engine, name, lives)
            self._check(engine, view)
            self._check_nothing_is_left(engine, view)
        finally:
            engine.close()
            end_processes_of(home.root)
            if self.offer == DOCKER:
                remove_containers_of(home.root)
        return steps.read_text().splitlines()

    def _follow(self, engine: EngineProcess, name: str, lives: Iterator[int]) -> RunView:
        """Submit and wait for the end, as a user would: with another engine when one has died."""
        lines = [self.witness.report(name), *self.story.commands]
        commands = "".join(f"- {line!r}\n" for line in lines)
        head = f"type: {self.story.type}\nname: {name}\n{self.story.options}"
        wanted = parse_configuration(f"{head}commands:\n{commands}")
        seen: list[RunView] = []

        def ended() -> bool:
            if engine.ended:
                engine.start(kill_at=next(lives, 0))
            with contextlib.suppress(EngineDown, EngineError, NotFound):
                if not seen and not any(
                    v.name == name for v in engine.client.runs(everything=True)
                ):
                    engine.client.submit(wanted, offers=[self.offer])  # type: ignore[arg-type]
                seen[:] = [engine.client.run(name)]
                if self._is_to_be_stopped(engine, seen[0]):
                    engine.client.stop(name)
            return bool(seen) and seen[0].finished

        until(ended, f"{name} to end", lambda: f"{seen}\n{engine.log_tail()}")
        return seen[0]

    def _is_to_be_stopped(self, engine: EngineProcess, view: RunView) -> bool:
        wanted = self.story.stopped and view.run.stop_requested_at is None
        return wanted and view.job is not None and b"working" in engine.output(view.name)

    def _check(self, engine: EngineProcess, view: RunView) -> None:
        story = self.story
        assert (view.status, view.run.reason) == (story.status, story.reason), engine.log_tail()
        told = [(job.reason, _output(engine.home, job)) for job in view.jobs]
        assert told == list(story.attempts), engine.log_tail()
        assert self.witness.count(view.name) == len(story.attempts)

    def _check_nothing_is_left(self, engine: EngineProcess, view: RunView) -> None:
        until(lambda: not _jobs_processes(engine.home), "the job's processes to end")
        wanted = {job.container for job in view.jobs}
        if self.offer == PROCESS:
            assert {path.name for path in engine.home.jobs.iterdir()} == wanted
        else:
            assert _containers(engine.home) == dict.fromkeys(wanted, "exited")
        assert {path.name for path in engine.home.logs.iterdir()} == wanted


def _jobs_processes(home: Home) -> list[str]:
    """Return the processes of jobs; a gateway lives a while longer than its services."""
    return [
        words for words in jobs_processes(home).values() if "dstack_engine.gateway" not in words
    ]


def _output(home: Home, job: Job) -> bytes:
    reader = LogReader(home.logs / job.container)
    parts, offset = [], 0
    while frames := reader.read(offset, 1 << 20):
        # bash itself says on standard error that a sleep of its was terminated.
        parts += [frame.payload for frame in frames if frame.stream == STDOUT]
        offset = frames[-1].next_offset
    return b"".join(parts)


def _containers(home: Home) -> dict[str, str]:
    labels = [f"{name}={value}" for name, value in home_labels(home).items()]
    with contextlib.closing(docker.from_env()) as client:
        found = client.containers.list(all=True, filters={"label": labels})
        return {container.name: container.status for container in found}


@pytest.fixture
def walk(
    offer: OfferId, story: str, engine: EngineProcess, tmp_path: Path
) -> Iterator[Callable[..., list[str]]]:
    """The walk of *story* on the test's host."""
    address = "127.0.0.1" if offer == PROCESS else computers_address()
    with Witness(address) as witness:
        yield Walk(STORIES[story], offer, engine.settings, witness, tmp_path).live


def _crash_at(walk: Callable[..., list[str]], steps: Sequence[int]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(walk, steps))


ON = [("process", story) for story in STORIES] + [
    pytest.param("docker", story, marks=pytest.mark.docker) for story in STORIES
]
#: As many steps a short `make test` tries of each walk; `make prove` tries them all.
TRIED = {"process": 8, "docker": 3}


@pytest.mark.slow
@pytest.mark.parametrize(("host", "story"), ON)
def test_a_run_survives_a_crash_of_the_engine(
    host: str, story: str, walk: Callable[..., list[str]]
) -> None:
    steps = walk()
    _crash_at(walk, _spread(len(steps), TRIED[host], list(STORIES).index(story)))


@pytest.mark.soak
@pytest.mark.parametrize(("host", "story"), ON)
def test_a_run_survives_a_crash_of_the_engine_at_any_step(
    host: str, story: str, walk: Callable[..., list[str]]
) -> None:
    steps = walk()
    # Stories that are like others are told at every third step, other ones on each host.
    stride = 1 if story == "success" else 3
    _crash_at(walk, range(1 + (host == "docker") * (stride - 1), len(steps) + 3, stride))


@pytest.mark.soak
@pytest.mark.parametrize(("host", "story"), ON)
def test_a_run_survives_one_crash_after_another(
    host: str, story: str, walk: Callable[..., list[str]]
) -> None:
    chance = random.Random(story)
    lives = [[chance.randint(1, 25) for _ in range(6)] for _ in range(4)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda crashes: walk(*crashes), lives))


def test_the_steps_of_a_run_are_all_that_a_loop_can_die_between(engine: EngineProcess) -> None:
    engine.home.make()
    steps = engine.home.root / "steps"
    engine.start(steps=steps)
    view = engine.submit("commands: [echo hi]")
    engine.until_ended(view.name)
    seen = Counter(steps.read_text().splitlines())
    for status in ("submitted", "provisioning", "pulling", "running", "terminating"):
        assert seen[f"job {status} looked"] >= 1
        assert seen[f"job {status} decided"] >= 1
    for step in ("run submitted", "job prepared", "job started", "job done saved", "run acted"):
        assert seen[step] >= 1


def _spread(steps: int, tried: int, shift: int) -> list[int]:
    """Return *tried* of the numbers 1 to *steps*, evenly, others for another *shift*."""
    stride = max(steps // tried, 1)
    return list(range(1 + shift * stride // len(STORIES), steps + 1, stride))
