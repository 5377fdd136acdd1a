"""The terminal: IPython's, and the `dstack-jupyter` program's.

What was asked for goes to standard output, everything about it (progress, questions, states of a
run) to standard error, so that output may be piped. Colours and progress only on a real terminal.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from dstack_engine.errors import DstackError, Refused
from dstack_engine.records.events import Frame, Progress, Stream
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.publication import ServiceReport
from dstack_engine.records.runs import RunView
from dstack_engine.records.sightings import Usage
from dstack_engine.records.updates import GatewayView
from dstack_jupyter.failures import Detached, explain
from dstack_jupyter.fleet_watching import LOOKING, Looked
from dstack_jupyter.labels import Labels
from dstack_jupyter.rendering.fleets import FleetCopy
from dstack_jupyter.rendering.markup import plain
from dstack_jupyter.rendering.offers import offers_text
from dstack_jupyter.rendering.runs import facts_of
from dstack_jupyter.rendering.services import addresses_of
from dstack_jupyter.rendering.steps import sentence_of, status_word
from dstack_jupyter.replicas import is_service, standing_of
from dstack_jupyter.run import Run
from dstack_jupyter.session import Session
from dstack_jupyter.surfaces.base import Choice, Earlier, Looking, Shown, Tell
from dstack_jupyter.waiting import Waiting

#: Where a log that is not to be read is begun: beyond its end.
NEVER = 1 << 62
#: Progress is told of what takes longer than this, in seconds.
PATIENCE = 1.0
#: Between two drawings of how far something is, in seconds.
_REDRAW = 0.2
_BAR = 24


class TerminalSurface:
    """Standard output, standard error and, where somebody sits there, a keyboard."""

    def __init__(
        self,
        session: Callable[[], Session],
        program: str,
        *,
        is_program: bool,
        variables: dict[str, object] | None = None,
    ) -> None:
        """Make a surface; *variables* is the namespace of terminal IPython."""
        self._session = session
        self.program = program
        self.is_program = is_program
        self._namespace = variables

    @property
    def variables(self) -> Mapping[str, object] | None:
        """What `$name` as an option's value means."""
        return self._namespace

    def show(self, shown: Shown) -> None:
        """Write the text."""
        self.write(shown.text.rstrip("\n") + "\n")

    def write(self, text: str) -> None:
        """Write *text* to standard output."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def output(self, stream: Stream, payload: bytes) -> None:
        """Write what a run printed to the stream of the same name."""
        target = sys.stdout if stream is Stream.STDOUT else sys.stderr
        buffer = getattr(target, "buffer", None)
        if buffer is None:
            target.write(payload.decode(errors="replace"))
            target.flush()
            return
        target.flush()
        buffer.write(payload)
        buffer.flush()

    @contextmanager
    def progress(self) -> Iterator[Tell]:
        """Draw a line that changes on a terminal; nothing at all into a pipe."""
        line = _Line()
        try:
            yield line.tell
        finally:
            line.clear()

    def ask(self, question: str) -> bool:
        """Ask [y/n] on the terminal. Raises `Refused` where there is none."""
        if not sys.stdin.isatty():
            raise Refused(
                f"{question} Nobody can be asked here: there is no terminal.",
                hint="Add -y to go on without a question.",
            )
        sys.stderr.write(f"{question} [y/n] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def confirm(self, question: str) -> bool:
        """Ask [y/n] on the terminal."""
        return self.ask(question)

    def choose(self, choice: Choice) -> None:
        """Show the offers and submit on the best one that fits, if somebody agrees."""
        self.write(offers_text(choice.plan).rstrip() + "\n")
        if not self.ask(f"Submit {choice.title}?"):
            choice.run.withdraw("its submission was declined")
            self.tell("Nothing was submitted.")
            return
        with self.progress() as tell:
            choice.run.bind(choice.submit((), tell))

    def present(self, run: Run) -> None:
        """Say in a line that the run goes on; terminal IPython shows its value as well."""
        name = run.name
        self.tell(f"{name} was submitted. See it: {self.program} attach {name}")

    def rejoin(self, run: Run, *, earlier: Earlier) -> None:
        """Write the end of its output, and go on until it has ended."""
        labels = Labels(run.last_view)
        for log, frames in earlier.items():
            for frame in frames:
                self.output(frame.stream, labels.put(log, frame.payload))
        offsets = {job.container: NEVER for job in run.last_view.jobs if job.finished}
        offsets |= {log: frames[-1].next_offset for log, frames in earlier.items() if frames}
        self._follow(run, Waiting(), labels, offsets)

    def stay(self, run: Run, *, waiting: Waiting | None = None) -> None:
        """Write the run's output and states as they come, until it has ended."""
        self._follow(run, waiting or Waiting(), Labels(run.last_view), {})

    def _follow(
        self, run: Run, waiting: Waiting, labels: Labels, offsets: Mapping[str, int]
    ) -> None:
        told = _Told(waiting)
        watcher = self._session().watcher()
        watcher.follow(run.view, told, offset=offsets or None)
        try:
            with self.progress() as tell:
                self._tell_all(run, told, labels, tell)
        except KeyboardInterrupt:
            raise detached(self.program, run.name) from None
        finally:
            told.close()
            watcher.forget(told)

    def look(self, looking: Looking) -> FleetView:
        """Wait until every machine was looked into, and write what was found."""
        name = looking.view.fleet.name
        looked = Looked(looking.view, looking.since)
        watcher = self._session().fleets()
        watcher.follow(looking.view, looked)
        until = monotonic() + LOOKING
        try:
            with self.progress() as tell:
                while not looked.over.wait(_REDRAW) and monotonic() < until:
                    tell(f"Looking into the machines of {name}", looked.share)
        except KeyboardInterrupt:
            raise Detached(
                f"Interrupted: {name} is there. See it: {self.program} fleet show {name}"
            ) from None
        finally:
            watcher.forget(looked)
        self.write(FleetCopy(looked.view, looked.runs).text() + "\n")
        return looked.view

    @contextmanager
    def telling(self) -> Iterator[Callable[[str], None]]:
        """Write a text that grows, and a newline in the end."""
        written = ""

        def tell(text: str) -> None:
            nonlocal written
            self.write(plain(text[len(written) :]))
            written = text

        try:
            yield tell
        finally:
            if written and not written.endswith("\n"):
                self.write("\n")

    def repeat(self, draw: Callable[[], Shown], changed: Callable[[], bool]) -> None:
        """Clear the terminal and draw, again after each change."""
        while True:
            text = draw().text.rstrip("\n") + "\n"
            self.write(f"\x1b[H\x1b[2J{text}" if sys.stdout.isatty() else text)
            if not changed():
                return

    def assign(self, variable: str, value: object) -> None:
        """Put *value* into a variable of terminal IPython."""
        if self._namespace is None:
            raise Refused("-o puts the run into a variable of a notebook; there is none here.")
        self._namespace[variable] = value

    def tell(self, sentence: str) -> None:
        """Write a sentence about what is shown."""
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()

    def _tell_all(self, run: Run, told: _Told, labels: Labels, tell: Tell) -> None:
        story = _Story(lambda: self._session().client(start=False).gateway())
        while (news := told.news.get()) is not None:
            match news:
                case RunView():
                    run.bind(news)
                    for line in story.go_on(news):
                        tell("", None)
                        self.tell(line)
                case ServiceReport():
                    for line in story.go_on(run.last_view, news):
                        tell("", None)
                        self.tell(line)
                case _Printed(log, frame):
                    tell("", None)
                    self.output(frame.stream, labels.put(log, frame.payload))
                case Progress():
                    tell(f"{news.step} {news.text}".strip(), news.fraction)


def detached(program: str, name: str) -> Detached:
    """Return what an interrupt becomes while a run is waited for."""
    return Detached(
        f"Detached: {name} goes on. See it again: {program} attach {name}; "
        f"stop it: {program} stop {name}"
    )


class _Story:
    """A run's states told one after the other, each fact once."""

    def __init__(self, gateway: Callable[[], GatewayView]) -> None:
        self._state = ""
        self._told: set[str] = set()
        self._report: ServiceReport | None = None
        self._gateway = gateway
        self._addressed = False

    def go_on(self, view: RunView, report: ServiceReport | None = None) -> Iterator[str]:
        """Yield what is new in *view*: a line for its state, a line for each offer that failed."""
        self._report = report or self._report
        if view.finished:
            yield explain(view)
            return
        if is_service(view):
            yield from self._service(view)
            return
        job = view.job
        for failed in job.tried if job is not None else ():
            line = f"{view.name}: {failed.offer} could not be had: {failed.why}"
            if line not in self._told:
                self._told.add(line)
                yield line
        facts = [fact for fact in (sentence_of(view), *facts_of(view, tried=False)) if fact]
        state = status_word(view)
        new = [fact for fact in facts if fact not in self._told]
        if state != self._state or new:
            self._state = state
            self._told.update(new)
            yield " · ".join([f"{view.name}: {state}", *new])

    def _service(self, view: RunView) -> Iterator[str]:
        standing = standing_of(view, self._report)
        line = f"{view.name}: {standing.word}"
        line += f" · {standing.sentence}" if standing.sentence else ""
        if line != self._state:
            self._state = line
            yield line
        if self._report is not None and not self._addressed:
            self._addressed = True
            with contextlib.suppress(DstackError):
                for label, address in addresses_of(view, self._gateway()):
                    yield f"{view.name}: {label}: {address}"


@dataclass(frozen=True)
class _Printed:
    """A piece of output, and the name of the log that it is from."""

    log: str
    frame: Frame


_News = RunView | ServiceReport | _Printed | Progress | None


class _Told:
    """A follower that hands everything to the thread that waits, until *waiting* is over."""

    def __init__(self, waiting: Waiting) -> None:
        self.news: queue.Queue[_News] = queue.Queue(maxsize=10_000)
        self._closed = False
        self._waiting = waiting

    def close(self) -> None:
        """Take nothing more, and let go whoever waits to hand something over."""
        self._closed = True

    def update(self, view: RunView) -> None:
        self._put(view)
        self._waiting.update(view)
        self._end_if_over()

    def service(self, report: ServiceReport) -> None:
        self._put(report)
        self._waiting.service(report)
        self._end_if_over()

    def _end_if_over(self) -> None:
        if self._waiting.over.is_set():
            self._put(None)

    def log(self, frames: Sequence[Frame], log: str) -> None:
        for frame in frames:
            self._put(_Printed(log, frame))

    def progress(self, progress: Progress) -> None:
        self._put(progress)

    def usage(self, usage: Usage) -> None:
        """It has no place in lines of text."""

    def ended(self) -> None:
        self._put(None)

    def _put(self, news: _News) -> None:
        # A terminal slower than the run holds the stream back, rather than filling memory.
        while not self._closed:
            try:
                self.news.put(news, timeout=0.1)
            except queue.Full:
                continue
            return


@dataclass
class _Line:
    """One line on standard error that is drawn again and again."""

    begun: float = 0.0
    drawn: int = 0

    def __post_init__(self) -> None:
        self.begun = monotonic()
        self._lock = threading.Lock()

    def tell(self, text: str, fraction: float | None) -> None:
        """Draw *text* and a bar, once it has taken long enough; empty text takes the line away."""
        if not text:
            self.clear()
            return
        if not sys.stderr.isatty() or monotonic() - self.begun < PATIENCE:
            return
        bar = "" if fraction is None else f" {bar_text(fraction)}"
        with self._lock:
            line = f"{text}{bar}"[:100]
            sys.stderr.write(f"\r{line:<{self.drawn}}")
            sys.stderr.flush()
            self.drawn = len(line)

    def clear(self) -> None:
        """Take the line away."""
        with self._lock:
            if self.drawn:
                sys.stderr.write("\r" + " " * self.drawn + "\r")
                sys.stderr.flush()
                self.drawn = 0


def bar_text(fraction: float) -> str:
    """Return a bar of text for *fraction*, 0–1."""
    full = round(min(max(fraction, 0.0), 1.0) * _BAR)
    return f"[{'#' * full}{'.' * (_BAR - full)}] {fraction:4.0%}"
