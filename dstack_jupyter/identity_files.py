"""The private keys that a fleet names are looked for here, before anything is sent.

The engine has another folder than the notebook, and no text to show a place in. Called by
`commands.fleets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dstack_engine.errors import ConfigurationError, Problem
from dstack_engine.spec.documents import read_document
from dstack_engine.spec.fleets import (
    FleetConfiguration,
    ProxyJump,
    SshConfig,
    SshHost,
    with_absolute_keys,
)
from dstack_engine.spec.texts import key_path

_Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Written:
    """The text that a configuration was read from, so that errors can name a place in it."""

    text: str | bytes
    first_line: int = 1
    file: str | None = None


def with_found_keys(
    fleet: FleetConfiguration, folder: Path, written: Written | None = None
) -> FleetConfiguration:
    """Return *fleet* with every `identity_file` absolute, as seen from *folder*.

    Raises `ConfigurationError` with each key that is not there, at its place in *written*.
    """
    problems = []
    for path, named in _keys(fleet.ssh_config):
        found = folder.absolute() / Path(named).expanduser()
        if wrong := _wrong_with(found):
            problems.append(_problem(written, path, *wrong))
    if problems:
        raise ConfigurationError(problems, file=written.file if written else None)
    return with_absolute_keys(fleet, folder)


def _keys(config: SshConfig | None) -> Iterator[tuple[_Path, str]]:
    """Yield every key that is named, with its path, in the text's order as far as it can be."""
    if config is None:
        return
    owners: list[tuple[_Path, SshConfig | SshHost]] = [(("ssh_config",), config)]
    owners += [(("ssh_config", "hosts", at), host) for at, host in enumerate(config.hosts)]
    for path, owner in owners:
        places: list[tuple[_Path, SshConfig | SshHost | ProxyJump | None]] = [
            (path, owner),
            ((*path, "proxy_jump"), owner.proxy_jump),
        ]
        for place, one in places:
            if one is not None and one.identity_file is not None:
                yield (*place, "identity_file"), one.identity_file


def _wrong_with(key: Path) -> tuple[str, str | None] | None:
    """Return what is wrong with the file of a key, and what to do; None for nothing."""
    if key.suffix == ".pub":
        return f"{key} is a public key", f"name the private one: {key.with_suffix('')}"
    try:
        if key.is_file():
            return None
    except OSError as error:
        return f"{key} cannot be read: {error.strerror}", None
    return f"there is no key {key}", "leave this out to use those that ssh finds by itself"


def _problem(written: Written | None, path: _Path, message: str, suggestion: str | None) -> Problem:
    if written is None:
        return Problem(0, 0, key_path(path), message, suggestion)
    document = read_document(written.text, first_line=written.first_line, file=written.file)
    return document.problem(path, message, suggestion)
