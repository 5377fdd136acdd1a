"""A run's cell: what its author could have written, without what is nobody's business."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from dstack_engine.records.runs import Run, RunId, RunStatus
from dstack_engine.spec.parsing import parse_configuration
from dstack_jupyter.server.cells import cell_of
from dstack_jupyter.server.checking import problems_in

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def cell(text: str) -> str:
    """Return the cell of a run of the configuration in *text*."""
    configuration = parse_configuration(text)
    run = Run(RunId("1"), "box", configuration, RunStatus.DONE, NOW, NOW)  # type: ignore[arg-type]
    return cell_of(run)


TASK = """\
%%dstack task
name: train
commands:
  - |
    echo one
    echo two
  - 'python "a: b"'
ports:
  - 8000
  - 80:8080
python: '3.12'
resources:
  cpu: 2..
  memory: 8GB..16GB
  gpu: A100,H100:24GB..:1..2
max_duration: 90m
max_price: 2.5
"""

SERVICE = """\
%%dstack service
name: chat
commands:
  - serve
port: 8000
model: tiny
replicas: 0..2
scaling:
  metric: rps
  target: 4
  window: 30s
"""


@pytest.mark.parametrize("written", [TASK, SERVICE], ids=["task", "service"])
def test_it_is_written_as_an_author_writes(written: str) -> None:
    kind = written.split()[1]
    assert cell(f"type: {kind}\n" + written.partition("\n")[2]) == written
    assert problems_in(written) == []


def test_values_of_variables_and_passwords_are_left_out() -> None:
    told = cell(
        "type: task\ncommands: [x]\nimage: a/b\nenv: [A=swordfish, B]\n"
        "registry_auth: {username: me, password: swordfish}"
    )
    assert "swordfish" not in told
    assert "env:\n  - A\n  - B\n" in told
    assert problems_in(told) == []
