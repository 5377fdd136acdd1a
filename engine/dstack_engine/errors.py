"""Every error raised on purpose, one tree.

::

    DstackError                      a sentence: what, which, what now
    ├── ConfigurationError           the author's YAML, with every place that is wrong
    ├── ArgumentError                a wrong word on the command line or in the magic's arguments
    ├── NotFound                     a run, job or file that is not there
    ├── Conflict                     a name, port or state that is taken
    ├── Refused                      the engine will not: no offers, over a limit
    │   ├── NoOffers
    │   ├── TooLarge
    │   └── CursorTooOld
    ├── EngineError                  the engine itself, seen from a client
    │   ├── EngineDown
    │   ├── EngineStartFailed
    │   ├── EngineUnauthorized
    │   └── EngineVersionMismatch
    ├── StoreError
    │   ├── LeaseLost
    │   └── StoreTooNew
    ├── BackendError                 a backend could not rent
    │   └── NoCapacity
    └── HostError                    a host could not run the job
        ├── HostUnreachable
        │   └── HostKeyChanged
        ├── ImageUnavailable
        ├── PythonUnavailable
        ├── PortTaken
        ├── DiskFull
        └── ContainerFailed

Each carries `code`, the word for it on the wire; `client` turns the word back into the class. In a
notebook an error renders itself in a line or two, without a traceback, and still fails the cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class DstackError(Exception):
    """The root: its text is a sentence that a person sees."""

    code = "error"
    #: HTTP status with which the API answers.
    http_status = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def render(self) -> str:
        """Return the text to show: the message and, on a line of its own, what to do now."""
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"

    def _render_traceback_(self) -> list[str]:
        """Return IPython's lines for this error: its own words instead of a traceback."""
        return f"{type(self).__name__}: {self.render()}".splitlines()


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a configuration, and where."""

    line: int
    column: int
    key: str
    message: str
    suggestion: str | None = None
    #: The source line, shown with a caret under `column`.
    source: str | None = None

    @property
    def sentence(self) -> str:
        """Return the message with its suggestion."""
        return self.message if self.suggestion is None else f"{self.message}; {self.suggestion}"

    def render(self) -> str:
        """Return the problem with its place, its line and a caret."""
        key = f"{self.key}: " if self.key else ""
        # Line 0: what is wrong came from no text (an API call, an argument).
        place = f"line {self.line}, column {self.column}: " if self.line else ""
        text = f"{place}{key}{self.sentence}"
        if self.source is None:
            return text
        return f"{text}\n    {self.source}\n    {' ' * max(self.column - 1, 0)}^"


class ConfigurationError(DstackError):
    """The author's YAML is wrong; every problem of the document at once."""

    code = "configuration"
    http_status = 422

    def __init__(self, problems: Sequence[Problem], *, file: str | None = None) -> None:
        self.problems = tuple(problems)
        self.file = file
        super().__init__("\n".join(problem.render() for problem in self.problems))


class ArgumentError(DstackError):
    """An argument that the command does not know, or a value that it cannot take."""

    code = "argument"
    http_status = 422


class NotFound(DstackError):
    """Something asked for by name is not there."""

    code = "not-found"
    http_status = 404


class Conflict(DstackError):
    """A name, a port or a state that is already taken."""

    code = "conflict"
    http_status = 409


class Refused(DstackError):
    """The engine understood, and will not."""

    code = "refused"
    http_status = 422


class NoOffers(Refused):
    """Nothing here or anywhere configured satisfies what the run asks."""

    code = "no-offers"


class TooLarge(Refused):
    """More was sent than is taken."""

    code = "too-large"
    http_status = 413


class CursorTooOld(Refused):
    """The event stream cannot go on from a place that long ago: what came next is forgotten."""

    code = "cursor-too-old"
    http_status = 410


class EngineError(DstackError):
    """The engine, seen from a client."""

    code = "engine"
    http_status = 502


class EngineDown(EngineError):
    """No engine answers."""

    code = "engine-down"


class EngineStartFailed(EngineError):
    """An engine was started and did not come up."""

    code = "engine-start-failed"


class EngineUnauthorized(EngineError):
    """The engine did not take our token."""

    code = "unauthorized"
    http_status = 401


class EngineVersionMismatch(EngineError):
    """Client and engine speak different versions of the protocol."""

    code = "version-mismatch"
    http_status = 409


class StoreError(DstackError):
    """What the engine knows could not be read or written."""

    code = "store"


class LeaseLost(StoreError):
    """Another worker holds the record now, or the record changed underneath."""

    code = "lease-lost"
    http_status = 409


class StoreTooNew(StoreError):
    """The database was written by a newer version."""

    code = "store-too-new"


class BackendError(DstackError):
    """A backend could not rent a machine."""

    code = "backend"
    http_status = 502


class NoCapacity(BackendError):
    """The offer is gone; the next one is tried."""

    code = "no-capacity"

    def __init__(self, backend: str, offer: str) -> None:
        super().__init__(f"{backend} has no {offer} left; trying the next offer")


class HostError(DstackError):
    """A host could not do what a job needs."""

    code = "host"
    http_status = 502


class HostUnreachable(HostError):
    """The Docker Engine or machine does not answer at present; worth trying again."""

    code = "host-unreachable"


class HostKeyChanged(HostUnreachable):
    """The machine shows another key than the pinned one: nothing is sent to it."""

    code = "host-key-changed"


class ImageUnavailable(HostError):
    """The image is not on this machine and cannot be pulled."""

    code = "image-unavailable"


class PythonUnavailable(HostError):
    """No interpreter of the version asked for can be had."""

    code = "python-unavailable"


class PortTaken(HostError):
    """A local port is used by somebody else."""

    code = "port-taken"


class DiskFull(HostError):
    """The disk on which the job would live is full."""

    code = "disk-full"


class ContainerFailed(HostError):
    """The container could not be created or started."""

    code = "container-failed"


def _subclasses(base: type[DstackError]) -> Iterable[type[DstackError]]:
    yield base
    for child in base.__subclasses__():
        yield from _subclasses(child)


def error_from_wire(code: str, message: str, hint: str | None) -> DstackError:
    """Return the error that the engine raised, rebuilt from its word on the wire."""
    for kind in _subclasses(DstackError):
        if kind.code == code and kind.__init__ is DstackError.__init__:
            return kind(message, hint=hint)
    return EngineError(message, hint=hint)
