"""The ear for supervisors."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

from dstack_engine.hosts.wake import WakeSender
from dstack_engine.reconcilers.wakes import WakeListener

PATIENCE = 10.0


def test_a_ring_is_heard_also_in_a_home_with_a_long_path(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30) / "wake.sock"
    path.parent.mkdir()
    heard: list[bytes] = []
    rung = threading.Event()
    listener = WakeListener(path, lambda ring: (heard.append(ring), rung.set()))
    listener.start()
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        WakeSender(str(path), "fox-0-0-1").send(b"exit")
        assert rung.wait(PATIENCE)
    finally:
        listener.close()
    assert heard == [b"exit fox-0-0-1"]
    assert not path.exists()


def test_a_listener_takes_the_place_of_one_that_died_and_may_be_closed_twice(
    tmp_path: Path,
) -> None:
    (tmp_path / "wake.sock").touch()
    listener = WakeListener(tmp_path / "wake.sock", lambda _ring: None)
    listener.start()
    listener.close()
    listener.close()
