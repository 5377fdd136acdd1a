"""Ctrl-C in the middle of something that must be whole. Called where a run is submitted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from dstack_engine.records.runs import RunView
from dstack_jupyter.failures import Detached

#: How long an interrupt waits for the engine's answer, in seconds.
PATIENCE = 10.0

#: How long after an interrupt a thread that was just being started may take to begin, in seconds.
SETTLING = 1.0


def uninterrupted(submit: Callable[[], RunView]) -> RunView:
    """Return what *submit* returns; an interrupt meanwhile says which run there is by then.

    Raises `Detached` with the run's name, so that no run goes on without its user knowing.
    """
    answer: Future[RunView] = Future()
    begun = threading.Event()

    def work() -> None:
        begun.set()
        try:
            answer.set_result(submit())
        except BaseException as error:
            answer.set_exception(error)

    try:
        threading.Thread(target=work, name="dstack-submit", daemon=True).start()
        return answer.result()
    except KeyboardInterrupt:
        if not begun.wait(SETTLING):
            raise  # nothing was sent
        name = answer.result(timeout=PATIENCE).name
        raise Detached(
            f"Interrupted; {name} was submitted already and goes on. "
            f"See it: %dstack attach {name}; stop it: %dstack stop {name}"
        ) from None
