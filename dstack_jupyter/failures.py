"""Errors of the notebook's own side: what was asked for went through, and its outcome is a failure.

Like all `DstackError`s they show as a line or two without traceback, and still fail the cell.
"""

from __future__ import annotations

from collections.abc import Sequence

from dstack_engine.errors import DstackError
from dstack_engine.records.runs import RunView
from dstack_jupyter.rendering.steps import sentence_of, status_word


class RunFailed(DstackError):
    """A run that was waited for did not end as asked: its reason, and the last that it printed."""

    code = "run-failed"

    def __init__(self, view: RunView, last_lines: Sequence[str] = ()) -> None:
        self.view = view
        text = explain(view)
        if last_lines:
            text += "\n" + "\n".join(f"  | {line}" for line in last_lines)
        super().__init__(text, hint=f"All it printed: %dstack logs {view.name}")


class CommandFailed(DstackError):
    """A command that `exec` ran inside a run ended with another exit code than 0."""

    code = "command-failed"

    def __init__(self, name: str, command: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(f"`{command}` ended with exit code {exit_code} in {name}")


class Detached(KeyboardInterrupt):
    """Waiting was interrupted; the run goes on. A line, which stops Run All as interrupts do."""

    def _render_traceback_(self) -> list[str]:
        """Return IPython's lines for it."""
        return [str(self)]


def explain(view: RunView) -> str:
    """Return how the run stands and why, as a sentence that begins with its name."""
    return sentence_of(view) or f"{view.name} is {status_word(view)}."
