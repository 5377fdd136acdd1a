"""What a fleet's configuration may name, and how its keys are found from another folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack_engine.errors import ConfigurationError
from dstack_engine.spec.fleets import FleetConfiguration, key_paths, with_absolute_keys
from dstack_engine.spec.parsing import parse_configuration


def a_fleet(hosts: str, more: str = "") -> FleetConfiguration:
    configuration = parse_configuration(
        f"type: fleet\nssh_config:\n  user: u\n  hosts: {hosts}\n{more}"
    )
    assert isinstance(configuration, FleetConfiguration)
    return configuration


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ("[]", "names no machine"),
        ("[a, A]", "A is there twice"),
        ("[a, {hostname: a, port: 22}]", "a is there twice"),
        ("[ann@a]", "write `hostname: a, user: ann`"),
        ("['-oProxyCommand=touch /tmp/x']", "cannot be a name that ssh takes"),
        ("['a b']", "cannot have ' ' in it"),
        ('["a\\nProxyCommand x"]', "cannot have '\\n' in it"),
        ("[{hostname: a, user: 'x y'}]", "cannot have ' ' in it"),
        ('[{hostname: a, identity_file: "k\\nProxyCommand x"}]', "cannot have '\\n' in it"),
        ("[{hostname: a, blocks: 0}]", "must be 1 or more, not 0"),
    ],
)
def test_what_ssh_could_misread_or_nobody_can_mean_is_refused(hosts: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        a_fleet(hosts)
    assert words in refusal.value.message


def test_one_name_at_two_ports_is_two_machines() -> None:
    config = a_fleet("[a, {hostname: a, port: 2222}, 'fe80::1%eth0']").ssh_config
    assert config is not None
    assert [(host.hostname, host.port) for host in config.hosts] == [
        ("a", None),
        ("a", 2222),
        ("fe80::1%eth0", None),
    ]


def test_keys_are_found_from_the_folder_of_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    jump = "{hostname: j, user: u, identity_file: jump key}"
    fleet = a_fleet(f"[{{hostname: a, identity_file: ~/.ssh/k, proxy_jump: {jump}}}, b]")
    assert key_paths(fleet) == ["~/.ssh/k", "jump key"]
    absolute = with_absolute_keys(fleet, Path("/work"))
    assert key_paths(absolute) == ["/home/ann/.ssh/k", "/work/jump key"]
    assert absolute.ssh_config is not None
    assert not absolute.ssh_config.wrote("identity_file")
