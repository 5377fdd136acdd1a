"""How `ssh` is told of a machine: a configuration file of ours before the user's, and arguments.

The file holds the rules that go for every hop, a jump host's included; what is the machine's own
(user, port, key, jump) goes on the command line, so that `~/.ssh/config` knows the machine by the
name that its user wrote. Called by `links`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dstack_engine.records.machines import SshTarget
from dstack_engine.ssh.commands import run

#: Seconds in which a machine has to take a connection and to greet.
CONNECT_TIMEOUT = 5
#: A peer that has sent nothing for 4 s is asked; after two questions without an answer (12 s in
#: all) it is given up.
ALIVE_INTERVAL = 4
ALIVE_COUNT = 2

USER_CONFIG = Path("~/.ssh/config")
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
USER_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")

#: Ours go first, and ssh takes the first that it finds. What a user's configuration would open or
#: run besides (forwards, commands) is not for connections that nobody looks at.
_RULES = f"""\
BatchMode yes
LogLevel INFO
VisualHostKey no
ConnectTimeout {CONNECT_TIMEOUT}
ConnectionAttempts 1
ServerAliveInterval {ALIVE_INTERVAL}
ServerAliveCountMax {ALIVE_COUNT}
StrictHostKeyChecking accept-new
UpdateHostKeys no
CheckHostIP no
HashKnownHosts no
AddKeysToAgent no
ClearAllForwardings yes
ForwardAgent no
ForwardX11 no
PermitLocalCommand no
RemoteCommand none
StreamLocalBindUnlink yes
ControlMaster no
ControlPath none
ControlPersist no
"""


@dataclass(frozen=True)
class Trusting:
    """Which files tell whom to trust and what else the user wrote about machines."""

    #: Ours: new keys are written there.
    known_hosts: Path
    user_config: Path = USER_CONFIG


def config_text(target: SshTarget, trusting: Trusting) -> str:
    """Return the configuration file for connections to *target*.

    Its first line tells apart the targets of one name, so that a changed one is noticed.
    """
    known = " ".join((_quoted(str(trusting.known_hosts)), *USER_KNOWN_HOSTS))
    parts = [f"# {' '.join(arguments(target))}\n"]
    parts += [_jump_rules(jump) for jump in _jumps(target) if jump.identity_file]
    parts += ["Match all\n", f"UserKnownHostsFile {known}\n", _RULES]
    parts += [f"Include {path}\n" for path in (trusting.user_config, SYSTEM_CONFIG)]
    return "".join(parts)


def arguments(target: SshTarget) -> list[str]:
    """Return the arguments of `ssh` that name *target*, the machine itself last."""
    found: list[str] = []
    if target.port is not None:
        found += ["-p", str(target.port)]
    if target.user is not None:
        found += ["-l", target.user]
    if target.identity_file is not None:
        # An agent with many keys would use up the tries that the machine allows.
        found += ["-o", f"IdentityFile={_quoted(target.identity_file)}"]
        found += ["-o", "IdentitiesOnly=yes"]
    if target.jump is not None:
        found += ["-J", ",".join(_uri(jump) for jump in _jumps(target))]
    return [*found, "--", target.hostname]


def resolved(config: Path, target: SshTarget) -> dict[str, list[str]]:
    """Return what `ssh` makes of *config* and *target*: each keyword's values, in lower case.

    Raises `HostUnreachable` where there is no ssh, `TimeoutError`.
    """
    answer = run(["ssh", "-F", str(config), "-G", *arguments(target)], timeout=CONNECT_TIMEOUT)
    found: dict[str, list[str]] = {}
    for line in answer.output.decode(errors="replace").splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword, []).append(value)
    return found


def hops(target: SshTarget) -> tuple[SshTarget, ...]:
    """Return the machines on the way to *target*, itself last."""
    return (*_jumps(target), target)


def _jumps(target: SshTarget) -> tuple[SshTarget, ...]:
    return () if target.jump is None else (*_jumps(target.jump), target.jump)


def _jump_rules(jump: SshTarget) -> str:
    key = _quoted(jump.identity_file or "")
    return f"Host {jump.hostname}\nIdentityFile {key}\nIdentitiesOnly yes\n"


def _uri(jump: SshTarget) -> str:
    """Return the address of a jump host as `-J` takes it."""
    user = f"{jump.user}@" if jump.user else ""
    port = f":{jump.port}" if jump.port else ""
    host = f"[{jump.hostname}]" if ":" in jump.hostname else jump.hostname
    return f"ssh://{user}{host}{port}"


def _quoted(path: str) -> str:
    """Return *path* for a place in which ssh replaces its %-tokens."""
    escaped = path.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
