"""Whose a machine is: an engine that uses one puts its mark there, and others keep away.

The mark is a volume of the machine's Docker Engine, so it is on the machine itself, outlives every
engine and needs nothing else there. Of two engines that put it at once the Docker Engine lets one
win: a volume keeps the labels that it was made with. Used by `machine_examination` whenever a
machine is looked into, and by `remote` when one is given back.
"""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dstack_engine.errors import HostUnreachable
from dstack_engine.hosts import docker_wire
from dstack_engine.hosts.docker_errors import CONNECTION_ERRORS, host_error, unreachable
from dstack_engine.records.findings import Finding

#: The volume that is the mark.
CLAIM = "dstack-jupyter-claim"
HOME_LABEL = "dstack-jupyter.home"
WHO_LABEL = "dstack-jupyter.who"

#: Seconds for each of the three requests; an engine that lives takes less than 0.1.
TIMEOUT = 5.0


@dataclass(frozen=True)
class Owner:
    """The engine that claims: its home's id, and whose it is, for people: ``ann@laptop``."""

    home: str
    who: str


def owner_here(home_id: str) -> Owner:
    """Return this engine as an owner."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "somebody"
    return Owner(home_id, f"{user}@{platform.node() or 'a computer'}")


def claim(url: str, owner: Owner) -> Finding:
    """Put *owner*'s mark on the machine whose Docker Engine is at *url*; tell whose it is.

    Repeated, it changes nothing. Raises `HostUnreachable`.
    """
    found = _look(url)
    if found is None:
        labels = {HOME_LABEL: owner.home, WHO_LABEL: owner.who}
        _call(url, "POST", "/volumes/create", {"Name": CLAIM, "Labels": labels})
        found = _look(url) or {}
    labels = found.get("Labels") or {}
    if labels.get(HOME_LABEL) == owner.home:
        return Finding(True, "claim", "belongs to this engine")
    since = str(found.get("CreatedAt", "")).replace("T", " ")[:16] or "some time"
    who = labels.get(WHO_LABEL) or "somebody else"
    return Finding(
        False,
        "claim",
        f"is used by the engine of {who} since {since}",
        f"Delete the fleet there; if that engine is gone, run on the machine: "
        f"docker volume rm {CLAIM}",
        fatal=True,
    )


def unclaim(url: str, owner: Owner) -> None:
    """Take *owner*'s mark away; do nothing where it is somebody else's or none.

    Raises `HostUnreachable`.
    """
    labels = (_look(url) or {}).get("Labels") or {}
    if labels.get(HOME_LABEL) == owner.home:
        _call(url, "DELETE", f"/volumes/{CLAIM}")


def _look(url: str) -> Mapping[str, Any] | None:
    found = _call(url, "GET", f"/volumes/{CLAIM}")
    return None if found is None else dict(json.loads(found))


def _call(url: str, method: str, path: str, body: object = None) -> bytes | None:
    """Return what the Docker Engine answers; None for what is not there."""
    try:
        status, said = docker_wire.call(url, method, path, body, timeout=TIMEOUT)
    except CONNECTION_ERRORS as error:
        raise unreachable(url, error) from error
    if status == 404:
        return None
    if status >= 400:
        why = host_error(docker_wire.refusal(said), "tell whose the machine is")
        raise HostUnreachable(why.message, hint=why.hint)
    return said
