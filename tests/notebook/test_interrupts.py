"""An interrupt in the very moment of a submission."""

from __future__ import annotations

import signal
import threading

import pytest

from dstack_engine.errors import NoOffers
from dstack_jupyter.failures import Detached
from dstack_jupyter.interrupts import uninterrupted
from tests.notebook.test_watching import VIEW


def test_an_interrupt_while_a_run_is_submitted_names_the_run() -> None:
    begun, interrupted = threading.Event(), threading.Event()

    def submit() -> object:
        begun.set()
        assert interrupted.wait(10)
        return VIEW

    def interrupt() -> None:
        begun.wait(10)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        interrupted.set()

    threading.Thread(target=interrupt).start()
    with pytest.raises(Detached, match="fox was submitted already and goes on"):
        uninterrupted(submit)  # type: ignore[arg-type]  # a view


def test_what_the_engine_refuses_is_raised_as_it_is() -> None:
    def refuse() -> object:
        raise NoOffers("none fits")

    with pytest.raises(NoOffers, match="none fits"):
        uninterrupted(refuse)  # type: ignore[arg-type]
