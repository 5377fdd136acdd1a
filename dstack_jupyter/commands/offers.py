"""`offers`: what could be rented now, without a run in mind or for a configuration's file."""

from __future__ import annotations

from pathlib import Path

from dstack_engine.errors import Refused
from dstack_engine.records.offers import Plan
from dstack_engine.spec.configurations import Configuration, RunConfiguration
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_jupyter.commands.call import Call
from dstack_jupyter.commands.submitting import complete, not_started, read_configuration
from dstack_jupyter.commands.views import plan_shown


def show_offers(call: Call) -> None:
    """Show the offers that fit the options, and why the others do not."""
    call.surface.show(plan_shown(_plan(call)))


def _plan(call: Call) -> Plan:
    configuration: Configuration
    if call.arguments.file is None:
        configuration = configuration_from_dict({"type": "task", "commands": [":"]})
    else:
        configuration = read_configuration(call, Path.cwd())
    if not isinstance(configuration, RunConfiguration):
        raise Refused(not_started(configuration))
    return call.client().plan(complete(call, configuration, Path.cwd()))
