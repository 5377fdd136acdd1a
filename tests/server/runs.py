"""The runs that tests of the server's side start, as plain processes."""

from __future__ import annotations

from typing import Any

from dstack_engine.client import Client
from dstack_engine.records.runs import RunView
from dstack_engine.spec.configurations import Runnable
from dstack_engine.spec.parsing import configuration_from_dict


def a_task(name: str, *commands: str, **keys: Any) -> Runnable:
    """Return a task that runs *commands* as a plain process."""
    written = {
        "type": "task",
        "name": name,
        "commands": [*commands],
        "instance_types": ["process"],
        **keys,
    }
    return configuration_from_dict(written)  # type: ignore[return-value]  # it is a task


def start(client: Client, name: str, *commands: str, **keys: Any) -> RunView:
    """Submit such a task."""
    return client.submit(a_task(name, *commands, **keys))


def ended(client: Client, name: str) -> RunView:
    """Return the run once it has ended."""
    for _ in client.logs(name, follow=True):
        pass
    return client.run(name)
