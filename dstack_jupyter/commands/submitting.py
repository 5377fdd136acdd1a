"""The verbs that start runs: a cell's body, `apply -f FILE`, `run PATH -f FILE`.

Read the configuration, add what the command line says, plan, let somebody choose, send the
project's files, submit, show.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dstack_engine.client import Client
from dstack_engine.errors import ArgumentError, NoOffers, NotFound, Refused
from dstack_engine.files.manifest import FileLimits
from dstack_engine.files.tree import scan_project
from dstack_engine.files.uploads import upload_tree
from dstack_engine.records.offers import OfferId, Plan
from dstack_engine.records.runs import RunView
from dstack_engine.spec.arguments import merge_arguments
from dstack_engine.spec.configurations import (
    Configuration,
    RunConfiguration,
    Runnable,
    ServiceConfiguration,
    TaskConfiguration,
)
from dstack_engine.spec.files import (
    find_configuration_file,
    load_configuration,
    load_profiles,
    read_bounded,
)
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.interpolation import references
from dstack_engine.spec.parsing import parse_configuration
from dstack_engine.spec.profiles import apply_profile
from dstack_jupyter.arguments import surplus_error, variable_name
from dstack_jupyter.commands.call import FIRST_BODY_LINE, Call
from dstack_jupyter.commands.fleets import apply_fleet
from dstack_jupyter.commands.views import bytes_text, plan_shown
from dstack_jupyter.identity_files import Written
from dstack_jupyter.interrupts import uninterrupted
from dstack_jupyter.replicas import is_service, state_of
from dstack_jupyter.run import Run
from dstack_jupyter.surfaces.base import Choice, Shown, Tell


def run_cell(call: Call) -> Run | None:
    """Run the configuration in the cell."""
    return _start(call, read_cell(call), Path.cwd())


def plan_cell(call: Call) -> None:
    """Check a configuration of a kind that is not run."""
    call.surface.show(Shown(not_started(read_cell(call))))


def apply(call: Call) -> Run | None:
    """Run the configuration in a file of the project, which is the current folder."""
    return _start(call, read_configuration(call, Path.cwd()), Path.cwd())


def run_project(call: Call) -> Run | None:
    """Run the configuration in a file, with the folder that is named as the project."""
    project = Path(call.arguments.path).expanduser()
    if not project.is_dir():
        raise ArgumentError(f"{call.arguments.path} is not a folder; the project's is `.`, usually")
    return _start(call, read_configuration(call, project), project.resolve())


def read_cell(call: Call) -> Configuration:
    """Return the configuration in the cell."""
    return parse_configuration(
        call.body or "",
        expected_type=call.command.name,
        name=call.arguments.name,
        first_line=FIRST_BODY_LINE,
    )


def read_configuration(call: Call, project: Path) -> Configuration:
    """Return the configuration that `-f` names, or the project's default one."""
    given = call.arguments.file
    if given == "-":
        return parse_configuration(sys.stdin.read(), file="-")
    return load_configuration(_file_of(project, given))


def _file_of(project: Path, given: str | None) -> Path:
    if given is not None and (Path.cwd() / given).is_file():
        return find_configuration_file(project, Path.cwd() / given)
    return find_configuration_file(project, given)


def complete(call: Call, configuration: Runnable, project: Path) -> Runnable:
    """Return the configuration with profile, options and this process's variables merged in."""
    said = call.arguments
    surplus = getattr(said, "rest", [])
    if surplus and not _takes_arguments(configuration):
        raise surplus_error(call.parser, surplus)
    profiles = load_profiles(project, Path.home())
    configuration = apply_profile(configuration, profiles.get(said.profile))
    return merge_arguments(
        configuration,
        name=getattr(said, "name", None),
        env=getattr(said, "env", ()),
        ports=getattr(said, "port", ()),
        gpu=said.gpu,
        memory=said.memory,
        cpu=said.cpu,
        disk=said.disk,
        max_price=said.max_price,
        spot_policy=said.spot_policy,
        backends=said.backend or None,
        regions=said.region or None,
        instance_types=said.instance_type or None,
        max_duration=getattr(said, "max_duration", None),
        retry=getattr(said, "retry", None),
        fleets=said.fleet or None,
        creation_policy="reuse" if said.reuse else None,
        run_args=surplus,
        environ=os.environ,
    )


def _start(call: Call, configuration: Configuration, project: Path) -> Run | None:
    said = call.arguments
    if said.wait and not said.yes and not said.dry_run and not call.surface.is_program:
        raise ArgumentError(
            "--wait needs -y: a cell that waits cannot be told which offer to take",
            hint="Add -y to take the best offer, or leave --wait out and choose in the table.",
        )
    if said.wait and said.detach:
        raise ArgumentError("--wait and --detach exclude each other")
    if isinstance(configuration, FleetConfiguration):
        _apply_fleet(call, configuration, project)
        return None
    if not isinstance(configuration, RunConfiguration):
        raise Refused(not_started(configuration))
    wanted = complete(call, configuration, project)
    client = call.client()
    if said.dry_run:
        _show_plan(call, client.plan(wanted))
        return None
    if not isinstance(wanted, (TaskConfiguration, ServiceConfiguration)):
        _show_plan(call, client.plan(wanted))
        raise Refused(not_started(wanted))
    run = Run(call.session)
    if said.out is not None:
        call.surface.assign(variable_name(said.out), run)
    updated = _updated(client, wanted)
    submission = Submission(client, wanted, None if said.no_files else project, updated)
    if said.yes:
        _submit(call, submission, run)
    else:
        _choose(call, submission, run)
    if run.submitted:
        _show_run(call, run)
    return run


def _apply_fleet(call: Call, fleet: FleetConfiguration, project: Path) -> None:
    said = call.arguments
    named = fleet if said.name is None else fleet.model_copy(update={"name": said.name})
    written = None
    if said.file != "-":
        file = _file_of(project, said.file)
        written = Written(read_bounded(file), file=str(file))
    apply_fleet(call, named, project, written)


def _updated(client: Client, wanted: Runnable) -> RunView | None:
    """Return the service that *wanted* updates; None where it starts something new."""
    if not isinstance(wanted, ServiceConfiguration) or wanted.name is None:
        return None
    try:
        view = client.run(wanted.name)
    except NotFound:
        return None
    return None if view.finished or not is_service(view) else view


def _submit(call: Call, submission: Submission, run: Run) -> None:
    try:
        with call.surface.progress() as tell:
            run.bind(submission.send((), tell))
        if submission.updated is not None and not call.arguments.detach:
            call.surface.tell(_update_text(submission.updated, run.last_view))
    except NoOffers:
        _show_plan(call, submission.client.plan(submission.configuration))
        raise


def _update_text(before: RunView, after: RunView) -> str:
    if state_of(before).deployment == state_of(after).deployment:
        return f"The running service {after.name} stays as it is: its configuration is the same."
    return f"Updating the running service {after.name}: one replica at a time."


def _choose(call: Call, submission: Submission, run: Run) -> None:
    plan = submission.client.plan(submission.configuration)
    if not plan.offers:
        _show_plan(call, plan)
        raise NoOffers("Nothing was started: no offer fits what this asks; the table says why.")
    if submission.updated is not None:
        remark = f"updates the running service {submission.updated.name}: one replica at a time"
        plan = replace(plan, remarks=(remark, *plan.remarks))
    call.surface.choose(Choice(plan, submission.send, submission.title, run))


def _show_run(call: Call, run: Run) -> None:
    said, surface = call.arguments, call.surface
    if said.detach:
        surface.write(f"{run.name}\n")
        run.mark_shown()
    elif said.wait and is_service(run.last_view):
        waiting = run.readiness()
        surface.stay(run, waiting=waiting)
        run.check_ready(waiting)
    elif said.wait or surface.is_program:
        surface.stay(run)
        run.check()
    else:
        surface.present(run)


def not_started(configuration: Configuration) -> str:
    """Return the sentence for a configuration that cannot be started yet."""
    name = f" {configuration.name}" if configuration.name else ""
    return (
        f"The {configuration.type}{name} is well written; it was not started, "
        "since this version runs tasks, services and fleets of your own machines only."
    )


def _show_plan(call: Call, plan: Plan) -> None:
    call.surface.show(plan_shown(plan))


@dataclass(frozen=True)
class Submission:
    """Everything that is needed to submit, once somebody has agreed."""

    client: Client
    configuration: Runnable
    #: The folder whose files go along; None for none.
    project: Path | None
    #: The running service that it updates; None where it starts something new.
    updated: RunView | None = None

    @property
    def title(self) -> str:
        """Return what the run is called in a question."""
        kind = self.configuration.type
        return (
            f"the {kind} {self.configuration.name}" if self.configuration.name else f"this {kind}"
        )

    def send(self, offers: Sequence[OfferId], tell: Tell) -> RunView:
        """Send the project's files and submit the run."""
        files = None if self.project is None else self._send_files(self.project, tell)
        return uninterrupted(
            lambda: self.client.submit(
                self.configuration,
                offers=offers,
                files=files,
                project=None if self.project is None else str(self.project),
            )
        )

    def _send_files(self, project: Path, tell: Tell) -> str:
        settings = self.client.settings()
        limits = FileLimits(max_files=settings.max_files, max_bytes=settings.files_limit)
        tree = scan_project(
            project,
            limits=limits,
            on_progress=lambda done, total: tell(
                "Reading the project's files", _share(done, total)
            ),
            home=self.client.home,
        )
        sent = upload_tree(
            tree,
            _Receiver(self.client),
            lambda done, total: tell(
                f"Sending the project's files: {bytes_text(done)} of {bytes_text(total)}",
                _share(done, total),
            ),
        )
        return sent.digest


@dataclass(frozen=True)
class _Receiver:
    """The engine's store of files, as `upload_tree` wants it."""

    client: Client

    def missing(self, manifest: bytes) -> Sequence[str]:
        return self.client.missing_blobs(manifest)

    def receive(self, chunks: Iterable[bytes]) -> Sequence[str]:
        return self.client.send_blobs(chunks) or ()

    def keep_tree(self, manifest: bytes) -> str:
        return self.client.keep_tree(manifest)


def _takes_arguments(configuration: Runnable) -> bool:
    texts = (*configuration.setup, *getattr(configuration, "commands", ()))
    return any(str(reference) == "run.args" for text in texts for reference in references(text))


def _share(done: int, total: int) -> float | None:
    return done / total if total else None
