"""What benchmarks stand on: an engine in a home of its own, and an image that is already here."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter

import docker
from docker.errors import DockerException

from dstack_engine.client import Client
from dstack_engine.home import HOME_VARIABLE, Home
from dstack_engine.launcher import connect
from dstack_engine.records.events import Event
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import Run
from dstack_engine.records.updates import CaughtUp, LogWritten, RecordChanged
from dstack_engine.spec.configurations import TaskConfiguration
from dstack_engine.spec.parsing import configuration_from_dict
from tests.hosts import images

DOCKER, PROCESS = OfferId("local/docker"), OfferId("local/process")

REPOSITORY = Path(__file__).parents[1]

_numbers = itertools.count(1)


@contextmanager
def home() -> Iterator[Home]:
    """A home of this benchmark's own, named in the environment; taken away in the end."""
    before = os.environ.get(HOME_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="dstack-bench-") as folder:
        os.environ[HOME_VARIABLE] = f"{folder}/home"
        try:
            made = Home.of_user().make()
            made.config.write_text(f"default_image: {images.python().name}\nlog_limit: 4GB\n")
            yield made
        finally:
            if before is None:
                del os.environ[HOME_VARIABLE]
            else:
                os.environ[HOME_VARIABLE] = before


@contextmanager
def engine() -> Iterator[Client]:
    """A running engine in a home of its own; its runs, containers and itself end with it."""
    with home(), connect() as client:
        try:
            yield client
        finally:
            with connect() as last:
                last.stop_engine(stop_runs=True)
            with connect() as last:
                last.prune(everything=True)
                last.stop_engine()


def image() -> str | None:
    """Return the image of all containers here, loaded if need be; None where no Docker answers."""
    try:
        with closing(docker.from_env()) as api:
            return images.python().ensure(api)
    except DockerException:
        return None


def hosts() -> list[tuple[OfferId, str]]:
    """Return the offers to measure with what they are called: Docker's only where it answers."""
    return [*([(DOCKER, "Docker")] if image() else []), (PROCESS, "process host")]


def new_name(what: str) -> str:
    """Return a run's name that was not used yet."""
    return f"bench-{what}-{next(_numbers)}"


class Listener:
    """A client's open stream of one run's output, there before the run is."""

    def __init__(self, client: Client, run: str) -> None:
        """Open the stream and return once it is live."""
        self._updates = client.updates(logs=[run])
        while not isinstance(next(self._updates), CaughtUp):
            pass

    def output(self) -> Iterator[tuple[float, bytes]]:
        """Yield what the run prints, each piece with `perf_counter()` at its arrival."""
        for update in self._updates:
            if isinstance(update, LogWritten):
                yield perf_counter(), update.frame.payload


def submit(client: Client, offer: OfferId, name: str, commands: Sequence[str]) -> None:
    """Start a run of *commands* on *offer*, without looking at the offers first, as `-y` does."""
    task = configuration_from_dict({"type": "task", "name": name, "commands": list(commands)})
    assert isinstance(task, TaskConfiguration)
    client.submit(task, offers=[offer])


def await_end(client: Client, name: str) -> None:
    """Return when the run has ended: measurements do not overlap."""
    for update in client.updates():
        match update:
            case CaughtUp() if client.run(name).finished:
                return
            case RecordChanged(event=Event(record=Run(name=ended, finished=True))) if ended == name:
                return


def bare(offer: OfferId, script: str) -> list[str]:
    """Return the command that does the same without us: `docker run`, or bash alone."""
    if offer == DOCKER:
        return ["docker", "run", "--rm", images.python().name, "bash", "-c", script]
    return ["bash", "-c", script]


def time_first_line(command: Sequence[str]) -> float:
    """Return the seconds until *command* has printed its first line."""
    begun = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return perf_counter() - begun
