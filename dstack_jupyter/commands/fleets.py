"""The verbs about machines of one's own: `fleet` (a cell, or with a word after it) and `pool`.

A fleet's configuration is checked here, its keys are looked for, and the engine is given it; what
becomes of it is shown machine by machine while they are being looked into.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dstack_engine.client import Client
from dstack_engine.errors import ArgumentError, ConfigurationError, NotFound, Problem, Refused
from dstack_engine.records.fleets import FleetView
from dstack_engine.records.instances import Instance
from dstack_engine.spec.fleets import FleetConfiguration
from dstack_engine.spec.names import check_name
from dstack_engine.spec.parsing import configuration_from_dict, parse_configuration
from dstack_jupyter.arguments import suggestion
from dstack_jupyter.commands.call import FIRST_BODY_LINE, Call
from dstack_jupyter.commands.options import FLEET_ACTIONS
from dstack_jupyter.commands.views import fleet_shown, fleets_shown
from dstack_jupyter.failures import FleetNotUsable
from dstack_jupyter.identity_files import Written, with_found_keys
from dstack_jupyter.machines import host_text, is_usable, runs_on
from dstack_jupyter.surfaces.base import Looking

#: The fleet that `pool add-ssh` adds to where none is named.
DEFAULT_POOL = "default-pool"


def handle(call: Call) -> None:
    """Make or change the fleet in the cell, or do what the word after `fleet` says."""
    said = call.arguments
    if call.body is not None and said.action is None:
        _apply_cell(call)
        return
    if said.action not in (None, *FLEET_ACTIONS):
        raise ArgumentError(
            f"{call.parser.prog} does not know {said.action!r}"
            f"{suggestion(said.action, FLEET_ACTIONS)}",
            hint=f"It takes one of: {', '.join(FLEET_ACTIONS)}.",
        )
    if call.body is not None and call.body.strip():
        raise ArgumentError(f"%%dstack fleet {said.action} takes no body: write %dstack fleet")
    actions = {"show": _show, "delete": _delete, "examine": _examine, "trust": _trust}
    if said.action in (None, "list"):
        _list(call)
    else:
        actions[said.action](call)


def _apply_cell(call: Call) -> None:
    text = call.body or ""
    configuration = parse_configuration(
        text, expected_type="fleet", name=call.arguments.name, first_line=FIRST_BODY_LINE
    )
    assert isinstance(configuration, FleetConfiguration)
    apply_fleet(call, configuration, Path.cwd(), Written(text, FIRST_BODY_LINE))


def apply_fleet(
    call: Call, configuration: FleetConfiguration, folder: Path, written: Written | None
) -> None:
    """Make the fleet, or change the one of that name, and show its machines.

    Raises `ConfigurationError` for a key that is not there, `Refused` for machines to be rented.
    """
    if configuration.ssh_config is None:
        raise Refused(
            "The fleet is well written; it was not made, since this version has no cloud backend.",
            hint="Machines that you can already ssh into are written below `ssh_config`.",
        )
    if configuration.name is None:
        problem = Problem(0, 0, "name", "a fleet needs a name", "as in `name: lab`")
        raise ConfigurationError([problem], file=written.file if written else None)
    check_name(configuration.name)
    complete = with_found_keys(configuration, folder, written)
    if getattr(call.arguments, "dry_run", False):
        hosts = complete.ssh_config.hosts if complete.ssh_config else ()
        names = ", ".join(host.hostname for host in hosts)
        call.surface.write(f"The fleet {complete.name} would have: {names}\n")
        return
    client = call.client()
    _look_at_all(call, client, client.apply_fleet(complete))


def _look_at_all(call: Call, client: Client, view: FleetView) -> None:
    """Show a fleet that was just applied; machines that were in trouble are looked into anew."""
    since = None
    if any(one.examination is not None and not is_usable(one) for one in view.instances):
        since = datetime.now(timezone.utc)
        view = client.examine_fleet(view.fleet.name)
    _look(call, client, view, since)


def _look(call: Call, client: Client, view: FleetView, since: datetime | None) -> None:
    """Show a fleet while its machines are looked into; what was found until *since* is old."""
    name = view.fleet.name
    if getattr(call.arguments, "detach", False):
        call.surface.write(f"{name}\n")
        return
    waits = call.surface.is_program or bool(getattr(call.arguments, "wait", False))
    seen = call.surface.look(Looking(view, lambda: client.examine_fleet(name), waits, since))
    if waits and not all(is_usable(one) for one in seen.instances):
        raise FleetNotUsable(seen)


def _list(call: Call) -> None:
    client = call.client()
    call.surface.show(fleets_shown(client.fleets(), runs_on(client.runs())))


def _show(call: Call) -> None:
    client = call.client()
    for name in _names(call):
        call.surface.show(fleet_shown(client.fleet(name), runs_on(client.runs())))


def _examine(call: Call) -> None:
    client = call.client()
    for name in _names(call):
        since = datetime.now(timezone.utc)
        _look(call, client, client.examine_fleet(name), since)


def _delete(call: Call) -> None:
    client, said, names = call.client(), call.arguments, _names(call)
    numbers = [_number(text) for text in said.instance]
    if numbers and len(names) > 1:
        raise ArgumentError("-i tells machines of one fleet; name one")
    for name in names:
        client.fleet(name)  # a wrong name is told before anything is deleted
    what = f"machines {', '.join(map(str, numbers))} of {names[0]}" if numbers else ", ".join(names)
    if not said.yes and not call.surface.confirm(f"Let {what} go?"):
        return
    for name in names:
        client.delete_fleet(name, instances=numbers, force=said.force)
        call.surface.write(f"{what if numbers else name} is being let go\n")


def _trust(call: Call) -> None:
    names = call.arguments.names
    if len(names) != 2:
        raise ArgumentError(
            f"{call.parser.prog} trust takes a fleet and one of its machines",
            hint="As in `%dstack fleet trust lab 10.0.0.5`.",
        )
    client = call.client()
    instance = _machine_named(client.fleet(names[0]), names[1])
    since = datetime.now(timezone.utc)
    client.trust(names[0], instance.number)
    call.surface.tell(f"The old host key of {host_text(instance)} is forgotten.")
    _look(call, client, client.fleet(names[0]), since)


def _machine_named(view: FleetView, text: str) -> Instance:
    """Return the machine that *text* names: by host, by name, or by number."""
    for instance in view.instances:
        hostname = instance.ssh.hostname if instance.ssh is not None else ""
        if text in (hostname, host_text(instance), instance.name, str(instance.number)):
            return instance
    known = ", ".join(host_text(instance) for instance in view.instances) or "none"
    raise NotFound(f"{view.fleet.name} has no machine {text}; it has: {known}")


def _names(call: Call) -> Sequence[str]:
    names: Sequence[str] = call.arguments.names
    if not names:
        action = call.arguments.action
        raise ArgumentError(
            f"{call.parser.prog} {action} needs the name of a fleet",
            hint=f"`{call.surface.program} fleet list` lists them.",
        )
    return names


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 4:
        raise ArgumentError(f"-i takes the number of a machine, not {text!r}")
    return int(text)


# --- pool ------------------------------------------------------------------------------------


def add_host(call: Call) -> None:
    """Add a host that can be reached by SSH to a fleet, which is made where there is none."""
    said = call.arguments
    name = check_name(said.fleet or DEFAULT_POOL)
    client = call.client()
    body = _with_host(_known(client, name), name, _host(call))
    configuration = configuration_from_dict(body)
    assert isinstance(configuration, FleetConfiguration)
    complete = with_found_keys(configuration, Path.cwd())
    _look_at_all(call, client, client.apply_fleet(complete))


def _host(call: Call) -> dict[str, Any]:
    said = call.arguments
    user, at, hostname = said.host.rpartition("@")
    host: dict[str, Any] = {"hostname": hostname}
    if at:
        host["user"] = user
    if said.port is not None:
        host["port"] = call.whole_number("port", least=1)
    if said.identity_file is not None:
        host["identity_file"] = str(Path.cwd() / Path(said.identity_file).expanduser())
    if said.blocks is not None:
        host["blocks"] = (
            said.blocks if said.blocks == "auto" else call.whole_number("blocks", least=1)
        )
    return host


def _known(client: Client, name: str) -> dict[str, Any] | None:
    """Return the configuration of the fleet as it is now; None where there is none."""
    try:
        fleet = client.fleet(name).fleet
    except NotFound:
        return None
    if fleet.finished or fleet.delete_requested_at is not None:
        return None
    written: dict[str, Any] = fleet.configuration.model_dump(mode="json", exclude_unset=True)
    return written


def _with_host(known: dict[str, Any] | None, name: str, host: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with *host*, in the place of what it had of that name and port."""
    body = known or {"type": "fleet", "name": name, "ssh_config": {"hosts": []}}
    ssh = body.get("ssh_config")
    if ssh is None:
        raise Refused(f"The fleet {name} has rented machines; name another one with --fleet.")
    places = [_place(one, ssh) for one in ssh["hosts"]]
    hosts = list(ssh["hosts"])
    if (place := _place(host, ssh)) in places:
        hosts[places.index(place)] = host
    else:
        hosts.append(host)
    return {**body, "ssh_config": {**ssh, "hosts": hosts}}


def _place(host: dict[str, Any], ssh: dict[str, Any]) -> tuple[str, object]:
    return host["hostname"].lower(), host.get("port") or ssh.get("port")
