"""What ssh is told of a machine, as ssh itself understands it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack_engine.records.machines import SshTarget
from dstack_engine.ssh.configs import Trusting, arguments, config_text, hops, resolved

NASTY = 'a "quoted" 100% folder'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / NASTY
    folder.mkdir()
    return folder


def as_understood(folder: Path, target: SshTarget, user_text: str = "") -> dict[str, list[str]]:
    user_config = folder.parent / "user-config"
    user_config.write_text(user_text)
    user_config.chmod(0o600)
    config = folder / "config"
    config.write_text(config_text(target, Trusting(folder / "known_hosts", user_config)))
    return resolved(config, target)


def test_the_machines_own_words_go_before_the_users(folder: Path) -> None:
    target = SshTarget("box", 2200, "ann", str(folder / "key"))

    found = as_understood(folder, target, "Host box\n HostName 10.0.0.5\n Port 99\n User eve\n")

    assert (found["hostname"], found["port"], found["user"]) == (["10.0.0.5"], ["2200"], ["ann"])
    assert found["identityfile"][0] == str(folder / "key").replace("%", "%%")
    assert found["identitiesonly"] == ["yes"]


def test_what_is_left_out_is_as_the_user_wrote_it(folder: Path) -> None:
    found = as_understood(
        folder,
        SshTarget("box"),
        "Host box\n HostName 10.0.0.5\n Port 99\n User eve\n ProxyJump bastion\n Compression yes\n",
    )

    assert (found["port"], found["user"], found["proxyjump"]) == (["99"], ["eve"], ["bastion"])
    assert found["compression"] == ["yes"]


def test_keys_are_pinned_in_our_file_first(folder: Path) -> None:
    found = as_understood(folder, SshTarget("box"), "Host *\n StrictHostKeyChecking no\n")

    assert found["stricthostkeychecking"] == ["accept-new"]
    assert found["userknownhostsfile"][0].startswith(str(folder / "known_hosts"))
    assert "/.ssh/known_hosts" in found["userknownhostsfile"][0]


def test_what_the_users_configuration_would_open_or_run_is_not(folder: Path) -> None:
    found = as_understood(
        folder,
        SshTarget("box"),
        "Host *\n LocalForward 8080 localhost:80\n ForwardAgent yes\n RemoteCommand reboot\n"
        " PermitLocalCommand yes\n LocalCommand reboot\n BatchMode no\n ServerAliveInterval 0\n",
    )

    assert "localforward" not in found
    assert found["forwardagent"] == found["permitlocalcommand"] == ["no"]
    assert "remotecommand" not in found
    assert (found["batchmode"], found["serveraliveinterval"]) == (["yes"], ["4"])


def test_jump_hosts_are_named_in_order_with_keys_of_their_own(folder: Path) -> None:
    first = SshTarget("outer", 22022, "eve", str(folder / "outer key"))
    target = SshTarget("box", jump=SshTarget("2001:db8::1", user="bob", jump=first))

    assert arguments(target) == [
        *("-J", "ssh://eve@outer:22022,ssh://bob@[2001:db8::1]"),
        *("--", "box"),
    ]
    assert [hop.hostname for hop in hops(target)] == ["outer", "2001:db8::1", "box"]
    text = config_text(target, Trusting(folder / "known_hosts"))
    assert text.index("Host outer") < text.index("Match all")


def test_a_name_cannot_be_an_option(folder: Path) -> None:
    target = SshTarget("-oProxyCommand=touch gotcha")

    assert arguments(target)[-2:] == ["--", "-oProxyCommand=touch gotcha"]
    as_understood(folder, target)
    assert not Path("gotcha").exists()


def test_two_targets_of_one_name_have_different_configurations(folder: Path) -> None:
    trusting = Trusting(folder / "known_hosts")

    one, other = (config_text(SshTarget(f"10.0.0.{n}"), trusting) for n in (5, 6))

    assert one != other
