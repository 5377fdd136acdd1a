"""The verbs about the engine itself: `engine`, `prune`, `doctor`, `version`."""

from __future__ import annotations

from dstack_engine import __version__
from dstack_engine.errors import EngineDown
from dstack_engine.records.updates import EngineInfo
from dstack_jupyter.commands.call import Call
from dstack_jupyter.commands.views import bytes_text, findings_shown


def control(call: Call) -> None:
    """Start the engine, say how it is, or stop it."""
    actions = {"start": _start, "status": _status, "stop": _stop}
    actions[call.arguments.action](call)


def _start(call: Call) -> None:
    call.surface.write(describe(call.client().engine()))


def _status(call: Call) -> None:
    try:
        info = call.session.client(start=False).engine()
    except EngineDown:
        call.surface.write(f"No engine runs for {call.session.home.root}.\n")
        return
    call.surface.write(describe(info))


def _stop(call: Call) -> None:
    try:
        client = call.session.client(start=False)
        active = client.engine().active_runs
    except EngineDown:
        call.surface.write("No engine runs.\n")
        return
    everything = call.arguments.all
    question = f"Stop the engine and its {_runs(active)}?"
    if everything and active and not call.arguments.yes and not call.surface.confirm(question):
        return
    with call.surface.progress() as tell:
        tell("Stopping the engine", None)
        client.stop_engine(stop_runs=everything)
    left = f"; {_runs(active)} left as they are" if active and not everything else ""
    call.surface.write(f"The engine is stopped{left}.\n")


def describe(info: EngineInfo) -> str:
    """Return what is to be known of a running engine."""
    return (
        f"Engine {info.version} runs: process {info.pid}, since "
        f"{info.started_at.astimezone():%Y-%m-%d %H:%M:%S}, {info.memory_mb:.0f} MB, "
        f"{_runs(info.active_runs)}.\nIts home is {info.home}.\n"
    )


def _runs(count: int) -> str:
    return f"{count} active run{'' if count == 1 else 's'}"


def prune(call: Call) -> None:
    """Take away what ended runs left."""
    what = (
        "everything of ended runs, their logs too" if call.arguments.all else "what ended runs left"
    )
    if not call.arguments.yes and not call.surface.confirm(f"Remove {what}?"):
        return
    with call.surface.progress() as tell:
        tell("Removing what ended runs left", None)
        report = call.client().prune(everything=call.arguments.all)
    call.surface.write(
        f"Removed: {report.runs} runs, {report.containers} containers, "
        f"{bytes_text(report.files_bytes)} of files, {bytes_text(report.logs_bytes)} of logs.\n"
    )


def doctor(call: Call) -> int | None:
    """Show what is well on this computer and what is not."""
    findings = call.client().doctor()
    call.surface.show(findings_shown(findings))
    return int(any(not finding.ok for finding in findings)) if call.surface.is_program else None


def version(call: Call) -> None:
    """Show this package's version, and the running engine's."""
    try:
        running = call.session.client(start=False).engine()
        engine = f"engine {running.version} (process {running.pid})"
    except EngineDown:
        engine = "no engine runs"
    call.surface.write(f"dstack-jupyter {__version__}; {engine}\n")
