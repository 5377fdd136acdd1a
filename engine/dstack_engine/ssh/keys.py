"""Which keys `ssh` has to offer, told to a person whose key was not taken.

Called by `links` after a refusal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dstack_engine.errors import HostUnreachable
from dstack_engine.records.machines import SshTarget
from dstack_engine.ssh.commands import run
from dstack_engine.ssh.troubles import Trouble

#: Seconds; an agent that forwards to another computer may hang.
_TIMEOUT = 5.0
#: Exit status of `ssh-add -l`: it holds none.
_NO_KEYS = 1


def refusal(text: str, target: SshTarget, identities: Iterable[str]) -> Trouble:
    """Return the trouble of a refused key: which were tried, and how to give one.

    *identities* are the files in which ssh looks for keys, as it tells them itself.
    """
    files = [Path(each.replace("%%", "%")).expanduser() for each in identities]
    here = [file for file in files if file.exists()]
    locked = [file for file in here if _has_passphrase(file)]
    agent = _agent_keys()
    if target.identity_file and not Path(target.identity_file).exists():
        return Trouble(f"{text}: there is no file {target.identity_file}", "Check `identity_file`.")
    usable = [str(file) for file in here if file not in locked]
    if not usable and not agent and locked:
        return Trouble(
            f"{text}: {locked[0]} has a passphrase, and no agent holds it",
            f"eval $(ssh-agent) && ssh-add {locked[0]}, then start the engine anew",
        )
    tried = [*usable, *(f"the agent's {key}" for key in agent)]
    told = f"tried: {', '.join(tried)}" if tried else "there is none to try"
    return Trouble(f"{text} ({told})", _copying(target, usable))


def _copying(target: SshTarget, usable: list[str]) -> str:
    """Return the command that gives the machine a key."""
    key = target.identity_file or (usable[0] if usable else None)
    where = f"{target.user}@{target.hostname}" if target.user else target.hostname
    port = f"-p {target.port} " if target.port else ""
    if key is None:
        return f"ssh-keygen -t ed25519 && ssh-copy-id {port}{where}"
    return f"ssh-copy-id -i {key} {port}{where}"


def _has_passphrase(key: Path) -> bool:
    try:
        answer = run(["ssh-keygen", "-y", "-P", "", "-f", str(key)], timeout=_TIMEOUT)
    except (TimeoutError, HostUnreachable):
        return False
    return "passphrase" in answer.words


def _agent_keys() -> list[str]:
    """Return the comments of the keys that the agent holds."""
    if not os.environ.get("SSH_AUTH_SOCK"):
        return []
    try:
        answer = run(["ssh-add", "-l"], timeout=_TIMEOUT)
    except (TimeoutError, HostUnreachable):
        return []
    if answer.status == _NO_KEYS:
        return []
    lines = answer.output.decode(errors="replace").splitlines()
    return [" ".join(line.split()[2:-1]) or "key" for line in lines if len(line.split()) > 2]
