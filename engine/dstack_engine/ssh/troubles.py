"""What ssh's words mean: a sentence that says what is wrong, and what to do about it.

Pure. Called by `links` with what a master has written before it gave up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dstack_engine.records.machines import SshTarget
from dstack_engine.ssh.configs import CONNECT_TIMEOUT, hops
from dstack_engine.ssh.trust import KeyChange

#: Of words that we do not know, so many are shown.
_LONGEST = 300
_NO_TROUBLE = "Warning: Permanently added"


@dataclass(frozen=True)
class Trouble:
    """Why there is no connection, and what to do."""

    text: str
    fix: str | None = None
    #: The hop that was reached and did not take our key: which were tried is worth telling.
    refused_by: SshTarget | None = None


_Sentence = Callable[["re.Match[str]", SshTarget], Trouble]
_Table = tuple[tuple["re.Pattern[str]", _Sentence], ...]


def understand(said: str, target: SshTarget) -> Trouble:
    """Return what *said*, the words of an ssh that gave up, means for reaching *target*."""
    known = _first(_KNOWN, said, target)
    if known is not None:
        return known
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = " / ".join([line for line in lines if not line.startswith(_NO_TROUBLE)][-2:])
    why = words[:_LONGEST] or "ssh ended without a word"
    return Trouble(f"cannot connect to {target.text}: {why}", f"Try it: {command(target)}")


def loss(said: str, target: SshTarget) -> Trouble:
    """Return why a connection to *target* that stood does not any more."""
    last = said.strip().splitlines()[-1:] or [""]
    lost = Trouble(f"the connection to {target.text} was lost")
    return _first(_LOSSES, last[0], target) or lost


def _first(table: _Table, said: str, target: SshTarget) -> Trouble | None:
    for pattern, sentence in table:
        if found := pattern.search(said):
            return sentence(found, target)
    return None


def key_change(said: str) -> KeyChange | None:
    """Return which host key has changed; None when none has."""
    name, shown, place = (pattern.search(said) for pattern in _CHANGE)
    if name is None or shown is None or place is None:
        return None
    return KeyChange(name[1], shown[1], Path(place[1]), int(place[2]))


def command(target: SshTarget) -> str:
    """Return the command by which a person tries the same."""
    words = ["ssh"]
    words += ["-p", str(target.port)] if target.port else []
    words += ["-i", target.identity_file] if target.identity_file else []
    words += ["-J", ",".join(jump.text for jump in hops(target)[:-1])] if target.jump else []
    words += [f"{target.user}@{target.hostname}" if target.user else target.hostname]
    return " ".join(words)


_CHANGE = (
    re.compile(r"Host key for (\S+) has changed"),
    re.compile(r"sent by the remote host is\s+(\S+?)\.?\s*$", re.MULTILINE),
    re.compile(r"Offending \S+ key in (.+):(\d+)\s*$", re.MULTILINE),
)


def _hop(hostname: str, target: SshTarget) -> SshTarget:
    """Return whom ssh means by *hostname*: a jump host on the way, or the machine itself."""
    return next((jump for jump in hops(target) if jump.hostname == hostname), target)


def _who(hostname: str, target: SshTarget) -> str:
    hop = _hop(hostname, target)
    return hostname if hop == target else f"the jump host {hop.hostname}"


def _connect(found: re.Match[str], target: SshTarget) -> Trouble:
    who, port, why = _who(found[1], target), found[2], found[3].strip()
    match why:
        case "Connection refused":
            return Trouble(
                f"{who} refuses connections on port {port}",
                "Is an SSH server running there? sudo systemctl start ssh. Is it another port?",
            )
        case "Connection timed out" | "Operation timed out":
            return Trouble(
                f"{who} does not answer on port {port} within {CONNECT_TIMEOUT} s",
                "Is it switched on, and does a firewall let you through?",
            )
        case "No route to host" | "Network is unreachable" | "Host is down":
            return Trouble(
                f"there is no way to {who}: {why.lower()}",
                "Is it switched on? Are you in its network (VPN)?",
            )
        case _:
            return Trouble(f"cannot connect to {who} on port {port}: {why}")


def _unknown_name(found: re.Match[str], target: SshTarget) -> Trouble:
    return Trouble(
        f"nobody knows the name {_who(found[1], target)}",
        "Check its spelling, or write the machine's address.",
    )


def _denied(found: re.Match[str], target: SshTarget) -> Trouble:
    who = f"{found[1]}@{_who(found[2], target)}"
    ways = found[3].replace(",", ", ")
    if "publickey" not in ways:
        return Trouble(
            f"{who} takes no keys, only: {ways}",
            "Set `PubkeyAuthentication yes` in its sshd_config, and give it your key.",
        )
    return Trouble(f"{who} does not take your key", refused_by=_hop(found[2], target))


def _too_many(_found: re.Match[str], target: SshTarget) -> Trouble:
    return Trouble(
        f"{target.text} was offered too many keys before the right one",
        "Say which it is: `identity_file` of the machine.",
    )


def _forwarding(_found: re.Match[str], target: SshTarget) -> Trouble:
    jump = target.jump.text if target.jump else "the jump host"
    return Trouble(
        f"{jump} does not let connections through to {target.hostname}",
        "Set `AllowTcpForwarding yes` in its sshd_config, then: sudo systemctl reload ssh",
    )


def _beyond_jump(found: re.Match[str], target: SshTarget) -> Trouble:
    jump = target.jump.text if target.jump else "the jump host"
    return Trouble(
        f"{jump} cannot connect to {target.hostname}: {found[1].strip().lower()}",
        "Is it switched on, and is this its name and port as the jump host sees it?",
    )


def _no_greeting(_found: re.Match[str], target: SshTarget) -> Trouble:
    return Trouble(
        f"{target.text} takes the connection but says nothing within {CONNECT_TIMEOUT} s",
        "It may be frozen or very busy; is it an SSH server that listens there?",
    )


def _closed_early(_found: re.Match[str], target: SshTarget) -> Trouble:
    return Trouble(
        f"{target.text} closes the connection before it says who it is",
        "Its SSH server may have too many connections (MaxStartups), or a ban on this address.",
    )


def _old(found: re.Match[str], target: SshTarget) -> Trouble:
    return Trouble(
        f"{target.text} and this computer have no {found[1]} in common; it offers: {found[2]}",
        "Bring its SSH server up to date.",
    )


def _unsafe_key(found: re.Match[str], _target: SshTarget) -> Trouble:
    return Trouble(
        f"the key {found[1]} can be read by others, so ssh does not use it", f"chmod 600 {found[1]}"
    )


def _unsafe_config(found: re.Match[str], _target: SshTarget) -> Trouble:
    return Trouble(
        f"{found[1]} can be written by others, so ssh does not use it", f"chmod 600 {found[1]}"
    )


def _wrong_config(found: re.Match[str], _target: SshTarget) -> Trouble:
    return Trouble(f"ssh does not understand {found[1]}, line {found[2]}: {found[3]}")


def _lost(_found: re.Match[str], target: SshTarget) -> Trouble:
    return Trouble(f"{target.text} has stopped answering", "Is it switched on, and in the network?")


def _closed(_found: re.Match[str], target: SshTarget) -> Trouble:
    return Trouble(f"{target.text} has closed the connection", "Was it restarted?")


#: In the order in which they are looked for: what says most comes first.
_KNOWN: _Table = tuple(
    (re.compile(pattern, re.MULTILINE), sentence)
    for pattern, sentence in (
        (r"^Permissions \d+ for '(.+)' are too open", _unsafe_key),
        (r"^Bad owner or permissions on (.+?)\s*$", _unsafe_config),
        (r"^(\S+?):? line (\d+): (Bad .+?)\s*$", _wrong_config),
        (r"administratively prohibited: open failed", _forwarding),
        (r"^ssh: connect to host (\S+) port (\d+): (.+)$", _connect),
        (r"Could not resolve hostname (\S+?):", _unknown_name),
        (r"Too many authentication failures", _too_many),
        (r"^(\S+)@(\S+): Permission denied \((.*)\)", _denied),
        (r"channel \d+: open failed: connect failed: (.+)$", _beyond_jump),
        (r"no matching (.+?) found\. Their offer: (.+?)\s*$", _old),
        (r"timed out during banner exchange", _no_greeting),
        (r"^kex_exchange_identification: (?:Connection closed|read: )", _closed_early),
    )
)

_LOSSES: _Table = (
    (re.compile(r"^Timeout, server \S+ not responding"), _lost),
    (re.compile(r"^Connection to \S+ closed"), _closed),
)
