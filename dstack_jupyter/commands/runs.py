"""The verbs about runs that are there: list, watch, read, attach, stop, delete, enter."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence

from dstack_engine.client import Client
from dstack_engine.errors import ArgumentError, EngineError, NotFound
from dstack_engine.records.runs import RunView
from dstack_engine.records.updates import RecordChanged, ServiceSeen
from dstack_jupyter.commands.call import Call
from dstack_jupyter.commands.views import events_shown, runs_shown
from dstack_jupyter.failures import CommandFailed, Detached
from dstack_jupyter.rendering.runs import Traffic
from dstack_jupyter.replicas import is_service, newest_jobs
from dstack_jupyter.run import Run
from dstack_jupyter.surfaces.base import Earlier, Shown

#: How much of a log's end a notebook shows, in bytes; its pages get slow with more.
NOTEBOOK_LOG = 1_000_000
#: How much of what was printed before a card begins with, in bytes.
CARD_LOG = 1_000_000


def list_runs(call: Call) -> None:
    """Show the runs, once or until interrupted."""
    client = call.client()
    everything = call.arguments.all

    def draw() -> Shown:
        views = client.runs(everything=everything)
        return runs_shown(views, traffic_of(client, views))

    if not call.arguments.watch:
        call.surface.show(draw())
        return
    kinds = (RecordChanged, ServiceSeen)
    changes = (update for update in client.updates() if isinstance(update, kinds))
    try:
        call.surface.repeat(draw, lambda: next(changes, None) is not None)
    except KeyboardInterrupt:
        raise Detached("") from None


def traffic_of(client: Client, views: Sequence[RunView]) -> Traffic | None:
    """Return what is known of the services among *views*; None where there are none."""
    services = [view for view in views if is_service(view) and not view.finished]
    if not services:
        return None
    reports = {}
    for view in services:
        with contextlib.suppress(NotFound):  # ended and deleted meanwhile
            if (report := client.service(view.name)) is not None:
                reports[str(view.run.id)] = report
    return Traffic(reports, client.gateway())


def show_logs(call: Call) -> None:
    """Write what a run printed, and with --follow what it goes on to print."""
    said, name = call.arguments, call.run_name()
    tail = None if said.all or call.surface.is_program else NOTEBOOK_LOG
    replica = None if said.replica is None else call.whole_number("replica", least=0)
    node = None if said.node is None else call.whole_number("node", least=0)
    frames = call.client().logs(
        name, follow=said.follow, tail_bytes=tail, replica=replica, node=node
    )
    try:
        for frame in frames:
            call.surface.output(frame.stream, frame.payload)
    except KeyboardInterrupt:
        raise Detached(f"Interrupted: {name} is not touched by that.") from None


def attach(call: Call) -> Run:
    """Show a run live: its card in a notebook, its output in a terminal."""
    run = Run(call.session, call.client().run(call.run_name()))
    call.surface.rejoin(run, earlier=_earlier(call, run))
    if call.surface.is_program:
        run.check()
    return run


def _earlier(call: Call, run: Run) -> Earlier:
    """Return the end of what the run has printed: the newest job of each replica and node."""
    client, jobs = call.client(), newest_jobs(run.last_view)
    return {
        job.container: tuple(
            client.logs(
                run.name,
                tail_bytes=CARD_LOG // len(jobs),
                replica=job.replica,
                node=job.node,
            )
        )
        for job in jobs
    }


def stop(call: Call) -> None:
    """Ask runs to end, politely or at once."""
    client, abort = call.client(), call.arguments.abort
    verb = "Abort" if abort else "Stop"
    names: Sequence[str] = call.arguments.runs
    for name in names:
        client.run(name)  # a wrong name is told before anything is stopped
    if not call.arguments.yes and not call.surface.confirm(f"{verb} {', '.join(names)}?"):
        return
    for name in names:
        view = client.stop(name, abort=abort)
        if view.finished:
            call.surface.write(f"{name} had ended already: {view.status}\n")
        else:
            call.surface.write(f"{name} is {'aborted' if abort else 'being stopped'}\n")


def delete(call: Call) -> None:
    """Forget ended runs."""
    client = call.client()
    names: Sequence[str] = call.arguments.runs
    for name in names:
        client.run(name)
    if not call.arguments.yes and not call.surface.confirm(
        f"Delete {', '.join(names)} with all logs?"
    ):
        return
    for name in names:
        client.delete(name)
        call.surface.write(f"{name} is deleted\n")


def list_events(call: Call) -> None:
    """Show what happened, the newest last."""
    limit = call.whole_number("limit", least=1)
    call.surface.show(events_shown(call.client().events(run=call.arguments.run, limit=limit)))


def execute(call: Call) -> int | None:
    """Run a command inside a run; without one, open a shell where there is a terminal."""
    name, command = call.run_name(), list(call.arguments.rest)
    client = call.client()
    if not command:
        _open_shell(call, client.shell_command(name))
    code = client.execute(name, command, call.surface.output)
    if call.surface.is_program:
        return code
    if code != 0:
        raise CommandFailed(name, shlex.join(command), code)
    return None


def _open_shell(call: Call, command: Sequence[str]) -> None:
    if not call.surface.is_program or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ArgumentError(
            f"{call.parser.prog} needs a command here, as in `{call.parser.prog} "
            f"{call.run_name()} -- nvidia-smi`; it opens a shell only in a terminal",
            hint=f"In a terminal: dstack-jupyter exec {call.run_name()}",
        )
    with contextlib.suppress(OSError):
        os.execvp(command[0], list(command))
    raise EngineError(f"{command[0]} is not on this computer's PATH; no shell could be opened.")
