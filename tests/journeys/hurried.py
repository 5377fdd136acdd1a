"""An engine that gives up a silent machine's jobs after seconds instead of minutes.

Everything else of it is `dstack_engine.rehearsal`'s. Runs in the process that `engines` forks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from dstack_engine import rehearsal
from dstack_engine.decisions import jobs
from dstack_engine.home import Home


def rehearse(home: Home, *, patience: tuple[float, float], **options: Any) -> int:
    """Be the engine of *home*; *patience* in seconds: for jobs that are retried, and for others."""
    jobs.RETRIED_PATIENCE, jobs.PATIENCE = (timedelta(seconds=each) for each in patience)
    return rehearsal.rehearse(home, **options)
