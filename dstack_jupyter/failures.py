"""Errors of the notebook's own side: what was asked for went through, and its outcome is a failure.

Like all `DstackError`s they show as a line or two without traceback, and still fail the cell.
"""

from __future__ import annotations

from collections.abc import Sequence

from dstack_engine.errors import DstackError
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.instances import Instance
from dstack_engine.records.runs import RunView
from dstack_jupyter.machines import findings_of, host_text, is_usable, machine_standing
from dstack_jupyter.rendering.quantities import counted
from dstack_jupyter.rendering.steps import sentence_of, status_word
from dstack_jupyter.replicas import newest_jobs


class RunFailed(DstackError):
    """A run that was waited for did not end as asked: its reason, and the last that it printed."""

    code = "run-failed"

    def __init__(self, view: RunView, last_lines: Sequence[str] = ()) -> None:
        self.view = view
        text = explain(view)
        if last_lines:
            text += "\n" + "\n".join(f"  | {line}" for line in last_lines)
        super().__init__(text, hint=f"All it printed: %dstack logs {view.name}")


class ServiceNotReady(DstackError):
    """A service that was waited for does not start: its reason, and the last that it printed."""

    code = "service-not-ready"

    def __init__(self, view: RunView, last_lines: Sequence[str] = ()) -> None:
        self.view = view
        why = explain(view) if view.finished else _why_not_ready(view)
        text = why + "".join(f"\n  | {line}" for line in last_lines)
        name = view.name
        left = f"It goes on trying; stop it: %dstack stop {name}. " if not view.finished else ""
        super().__init__(text, hint=f"{left}All it printed: %dstack logs {name}")


class FleetNotUsable(DstackError):
    """A fleet that was waited for has machines that cannot be used: which, and what is wrong."""

    code = "fleet-not-usable"

    def __init__(self, view: FleetView) -> None:
        self.view = view
        name = view.fleet.name
        wrong = [one for one in view.instances if not is_usable(one)]
        told = "; ".join(f"{one.name} ({host_text(one)}) is {_standing(one)}" for one in wrong)
        super().__init__(
            f"{len(wrong)} of {counted(len(view.instances), 'machine')} of {name} cannot be used: "
            f"{told}.",
            hint=f"What mends it: %dstack fleet show {name}",
        )


class GatewayError(DstackError):
    """A service or a model could not be asked, or answered with an error."""

    code = "gateway-error"


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


def _standing(instance: Instance) -> str:
    wrong = [one.text for one in findings_of(instance) if one.fatal and not one.ok]
    word = machine_standing(instance).word
    return f"{word}: {wrong[0]}" if wrong else str(word)


def _why_not_ready(view: RunView) -> str:
    failed = [job for job in newest_jobs(view) if job.reason is not None and job.finished]
    failed += [job for job in view.jobs if job.reason is not None and job.finished][-1:]
    if not failed:
        return f"{view.name} does not get ready."
    job = failed[0]
    reason = job.reason.sentence if job.reason else ""
    detail = f" ({job.detail})" if job.detail else ""
    return f"{view.name} does not get ready: replica {job.replica} {reason}{detail}."
