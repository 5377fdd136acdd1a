"""How a process-host job ended, from the facts that its supervisor wrote down."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import datetime, timezone

from dstack_engine.hosts.job_folder import number
from dstack_engine.records.sightings import Container, Sighting


def exited(facts: Mapping[str, object]) -> Sighting:
    """Return the sighting of a job with the exit *facts*."""
    exit_code, number_, error = facts.get("exit_code"), facts.get("signal"), facts.get("error")
    return Sighting(
        Container.EXITED,
        exit_code=exit_code if isinstance(exit_code, int) else None,
        signal=number_ if isinstance(number_, int) else None,
        out_of_memory=bool(facts.get("out_of_memory")),
        timed_out=bool(facts.get("timed_out")),
        interrupted=bool(facts.get("interrupted")),
        error=error if isinstance(error, str) else None,
        started_at=time_of(facts, "started_ns"),
        finished_at=time_of(facts, "finished_ns"),
    )


def time_of(facts: Mapping[str, object] | None, key: str) -> datetime | None:
    """Return the moment that *facts* give in ns since the epoch."""
    nanoseconds = (facts or {}).get(key)
    if not isinstance(nanoseconds, int):
        return None
    return datetime.fromtimestamp(nanoseconds / 1e9, timezone.utc)


def killed_facts(state: Mapping[str, object], *, wished: bool) -> dict[str, object]:
    """Return the exit facts of a job whose supervisor was killed, *wished* by us or not."""
    return {
        "exit_code": 128 + signal.SIGKILL,
        "signal": int(signal.SIGKILL),
        "interrupted": not wished,
        "error": None if wished else "its supervisor was killed, or the computer restarted",
        "started_ns": number(dict(state), "started_ns"),
        "finished_ns": int(datetime.now(timezone.utc).timestamp() * 1e9),
    }
