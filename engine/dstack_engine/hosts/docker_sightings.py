"""What the Docker Engine says of a container, as a `Sighting`.

Called by the Docker host's `look`. How the ends are told apart:

- *out of memory*: the kernel's OOM killer was at work in the container, and it did not end with 0.
- *signal*: an exit code of 128 + a signal's number. Docker, like a shell, has no other way to say
  it, so a script's own ``exit 137`` reads as a SIGKILL.
- *timed out*: it has a `max_duration`, ran that long, and a signal ended it.
- *interrupted*: see `was_interrupted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dstack_engine.records.sightings import Container, Sighting

#: Names the seconds after which a container's own watch ends it.
MAX_DURATION_LABEL = "dstack-jupyter.max-duration"
#: What the engine writes for a container that it finds dead after its own restart.
UNKNOWN_EXIT = 255
#: What an engine that is told to stop, or a computer that is shut down, ends containers with:
#: SIGHUP, SIGINT, SIGKILL, SIGTERM.
FAREWELLS = frozenset({129, 130, 137, 143})
#: How long an engine takes from the first container's end to its own, and to be there again.
RESTART_TIME = timedelta(seconds=30)
#: How much later than it was a container's start may stand in the engine's records.
LATE_START = timedelta(seconds=5)

_LARGEST_SIGNAL = 31


@dataclass(frozen=True)
class EngineLife:
    """What is known of the engine's own life when a container's end is judged."""

    #: It takes no new connections: it is going down, or gone.
    leaving: bool = False
    #: When it was started, where that can be known.
    started_at: datetime | None = None
    #: It leaves containers running while it is away itself.
    live_restore: bool = False


def sighting(found: Mapping[str, Any]) -> Sighting:
    """Return what `inspect` *found*, without a judgement on interruption."""
    state = found["State"]
    started_at, finished_at = moment(state["StartedAt"]), moment(state["FinishedAt"])
    error = str(state.get("Error") or "") or None
    if state["Running"]:
        return Sighting(Container.UP, started_at=started_at)
    if state["Status"] == "created" or started_at is None:
        return Sighting(Container.CREATED, error=error)
    exit_code = int(state["ExitCode"])
    out_of_memory = bool(state["OOMKilled"]) and exit_code != 0
    signal = exit_code - 128 if 128 < exit_code <= 128 + _LARGEST_SIGNAL else None
    return Sighting(
        Container.EXITED,
        exit_code=exit_code,
        signal=None if out_of_memory else signal,
        out_of_memory=out_of_memory,
        timed_out=signal is not None and _ran_out_of_time(found, started_at, finished_at),
        error=error,
        started_at=started_at,
        finished_at=finished_at,
    )


def may_be_interrupted(seen: Sighting) -> bool:
    """Tell whether the end could be the engine's doing, so that its life is worth asking for."""
    ended = seen.container is Container.EXITED and seen.exit_code != 0
    return ended and not seen.out_of_memory and not seen.timed_out


def was_interrupted(seen: Sighting, engine: EngineLife) -> bool:
    """Tell whether the engine was stopped, restarted or killed under the container.

    An end with 0 is never an interruption: what answers the farewell by finishing has finished.
    Otherwise it is one when the engine

    - wrote exit code 255 for it: it was found dead after a crash or a reboot;
    - was taking no new connections when the end was seen: it is going down;
    - was started after the container's end, and either the container was ended by one of the
      signals that engines and computers say farewell with, or its end lies within half a minute
      before that start. (A container that was killed otherwise, and whose end nobody looked at
      until the engine was restarted, is taken for an interrupted one.)

    With live restore containers outlive the engine, so only 255 counts.
    """
    if not may_be_interrupted(seen):
        return False
    if seen.exit_code == UNKNOWN_EXIT and _before(seen.finished_at, engine.started_at):
        return True
    if engine.live_restore:
        return False
    if engine.leaving:
        return True
    if seen.finished_at is None or engine.started_at is None:
        return False
    before = engine.started_at - seen.finished_at
    soon_before = before <= RESTART_TIME
    return before >= timedelta(0) and (seen.exit_code in FAREWELLS or soon_before)


def moment(text: str | None) -> datetime | None:
    """Return the engine's time (RFC 3339, ns) in UTC; None for its year 1, which is never."""
    if not text or text.startswith("0001-"):
        return None
    # datetime has microseconds; the engine writes up to nine digits, and Z or an offset.
    seconds, rest = text[:19], text[19:]
    digits = rest[1:].rstrip("Z").partition("+")[0].partition("-")[0] if rest[:1] == "." else ""
    offset = rest[1 + len(digits) :] if digits else rest
    zone = "+00:00" if offset in ("", "Z") else offset
    return datetime.fromisoformat(f"{seconds}.{digits[:6]:0<6}{zone}")


def _before(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and other is not None and one < other


def _ran_out_of_time(
    found: Mapping[str, Any], started_at: datetime, finished_at: datetime | None
) -> bool:
    limit = (found["Config"].get("Labels") or {}).get(MAX_DURATION_LABEL)
    if limit is None or finished_at is None:
        return False
    # On a busy machine the engine writes the start down some time after it.
    whole = timedelta(seconds=float(limit))
    return finished_at - started_at >= whole - min(LATE_START, whole / 2)
