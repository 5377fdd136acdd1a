"""The link to a machine: connected by the user's means, kept, lost and had again."""

from __future__ import annotations

import shutil
import signal
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_engine.errors import HostKeyChanged, HostUnreachable
from dstack_engine.records.machines import SshTarget
from dstack_engine.ssh.links import Link
from tests.hosts.engines import wait_for
from tests.ssh.conftest import MakeLink, MakeServer
from tests.ssh.servers import Agent, SshServer, fingerprint, make_key, seconds_until

pytestmark = pytest.mark.slow

#: Seconds in which a peer that went silent has to be noticed.
NOTICED = 15.0


def says(link: Link, script: str = "echo hello") -> str:
    return link.run_script(script, 10).strip()


def test_a_script_runs_on_the_machine(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)

    link.reach(20)

    assert says(link, "x='a b'; echo \"$x\"; echo to stderr >&2; exit 3") == "a b"


def test_making_a_link_connects_to_nothing_and_need_connects(
    server: SshServer, make_link: MakeLink
) -> None:
    link = make_link(server.target)
    assert not link.alive()

    link.need()

    assert link.alive()


def test_what_lies_in_the_home_is_the_users_alone(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)
    link.reach(20)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in link.config.parent.iterdir()}

    names = {f"lab-0.{end}" for end in ("config", "control", "docker", "forwards", "log")}
    assert modes == dict.fromkeys(names | {"known_hosts"}, 0o600)


def test_a_home_may_lie_as_deep_as_it_likes(
    server: SshServer, make_link: MakeLink, tmp_path: Path
) -> None:
    deep = tmp_path.joinpath(*["a folder with a long name"] * 6)
    link = make_link(server.target, name="a" * 41 + "-100", at=deep)

    link.reach(20)

    assert says(link) == "hello"


def test_a_key_may_lie_wherever_its_owner_likes(
    make_server: MakeServer, make_link: MakeLink, tmp_path: Path
) -> None:
    jump, behind = make_server(), make_server()
    keys = tmp_path / 'a "place" of 100% my own'
    keys.mkdir()
    for number, server in enumerate((jump, behind)):
        shutil.copy(server.key, keys / str(number))
    first = replace(jump.target, identity_file=str(keys / "0"))
    target = replace(behind.target, hostname="localhost", identity_file=str(keys / "1"), jump=first)
    link = make_link(target)

    link.reach(20)

    assert says(link) == "hello"


def test_the_users_configuration_tells_of_a_name(
    server: SshServer, make_link: MakeLink, user_config: Path
) -> None:
    target = server.target
    user_config.write_text(
        f"Host gpu-box\n HostName 127.0.0.1\n Port {target.port}\n User {target.user}\n"
        f" IdentityFile {target.identity_file}\n LocalForward 127.0.0.1:1 127.0.0.1:1\n"
        " RemoteCommand false\n RequestTTY force\n ControlMaster auto\n LogLevel QUIET\n"
    )
    link = make_link(SshTarget("gpu-box"))

    link.reach(20)

    assert says(link) == "hello"


def test_a_machine_is_reached_through_another(make_server: MakeServer, make_link: MakeLink) -> None:
    jump, behind = make_server(), make_server()
    target = replace(behind.target, hostname="localhost", jump=jump.target)
    link = make_link(target)

    link.reach(20)

    assert says(link) == "hello"
    assert jump.sessions()
    pins = (link.config.parent / "known_hosts").read_text()
    assert {line.split()[0] for line in pins.splitlines()} == {
        f"[127.0.0.1]:{jump.port}",
        f"[localhost]:{behind.port}",
    }


def test_a_key_that_only_the_agent_holds_is_used(
    server: SshServer, make_link: MakeLink, agent: Agent
) -> None:
    agent.add(server.key)
    link = make_link(replace(server.target, identity_file=None))

    link.reach(20)

    assert says(link) == "hello"


def test_the_key_that_was_named_is_found_among_many_of_the_agent(
    server: SshServer, make_link: MakeLink, agent: Agent, tmp_path: Path
) -> None:
    for number in range(8):
        agent.add(make_key(tmp_path / f"other-{number}"))
    agent.add(server.key)
    link = make_link(server.target)

    link.reach(20)

    assert says(link) == "hello"


# Why there is none


def refused(link: Link) -> HostUnreachable:
    with pytest.raises(HostUnreachable) as caught:
        link.reach(20)
    return caught.value


def test_nobody_at_the_port(server: SshServer, make_link: MakeLink) -> None:
    server.stop()

    error = refused(make_link(server.target))

    assert error.message == f"127.0.0.1 refuses connections on port {server.port}"
    assert "sudo systemctl start ssh" in str(error.hint)


def test_an_unknown_name(make_link: MakeLink) -> None:
    error = refused(make_link(SshTarget("no-such-machine.invalid")))

    assert error.message == "nobody knows the name no-such-machine.invalid"


def test_a_wrong_key_is_told_with_what_was_tried(
    server: SshServer, make_link: MakeLink, tmp_path: Path
) -> None:
    wrong = make_key(tmp_path / "wrong")

    error = refused(make_link(replace(server.target, identity_file=str(wrong))))

    who = f"{server.target.user}@127.0.0.1"
    assert error.message == f"{who} does not take your key (tried: {wrong})"
    assert error.hint == f"ssh-copy-id -i {wrong} -p {server.port} {who}"


def test_a_key_that_is_not_there(server: SshServer, make_link: MakeLink) -> None:
    error = refused(make_link(replace(server.target, identity_file="/nowhere/key")))

    assert error.message.endswith("does not take your key: there is no file /nowhere/key")


def test_a_key_with_a_passphrase_needs_an_agent(
    server: SshServer, make_link: MakeLink, tmp_path: Path
) -> None:
    locked = make_key(tmp_path / "locked", "secret")
    server.admit(locked)

    error = refused(make_link(replace(server.target, identity_file=str(locked))))

    assert f"{locked} has a passphrase, and no agent holds it" in error.message
    assert f"ssh-add {locked}" in str(error.hint)


def test_a_jump_host_that_is_away_is_told_apart(
    make_server: MakeServer, make_link: MakeLink
) -> None:
    jump, behind = make_server(), make_server()
    jump.stop()
    target = replace(behind.target, hostname="localhost", jump=jump.target)

    error = refused(make_link(target))

    assert error.message == f"the jump host 127.0.0.1 refuses connections on port {jump.port}"


def test_a_machine_that_is_away_behind_its_jump_host_is_told_apart(
    make_server: MakeServer, make_link: MakeLink
) -> None:
    jump, behind = make_server(), make_server()
    behind.stop()
    target = replace(behind.target, hostname="localhost", jump=jump.target)

    error = refused(make_link(target))

    assert error.message == f"{jump.target.text} cannot connect to localhost: connection refused"


def test_a_jump_host_that_lets_nothing_through(
    make_server: MakeServer, make_link: MakeLink
) -> None:
    jump, behind = make_server(options="AllowTcpForwarding no"), make_server()
    target = replace(behind.target, hostname="localhost", jump=jump.target)

    error = refused(make_link(target))

    assert error.message == f"{jump.target.text} does not let connections through to localhost"
    assert "AllowTcpForwarding yes" in str(error.hint)


def test_a_machine_that_says_nothing(server: SshServer, make_link: MakeLink) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        error = refused(make_link(server.target))
    finally:
        server.process.send_signal(signal.SIGCONT)

    assert "says nothing within 5 s" in error.message


def test_no_ssh_on_this_computer(
    server: SshServer, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    link = make_link(server.target)
    monkeypatch.setenv("PATH", str(tmp_path))

    error = refused(link)

    assert error.message == "`ssh` is not installed on this computer"
    assert error.hint == "sudo apt-get install openssh-client"


# Trust


def test_the_first_sight_pins_the_host_key(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)

    link.reach(20)

    assert link.host_key() == fingerprint(server.host_key)


def test_a_changed_host_key_stops_and_is_told_with_both_fingerprints(
    server: SshServer, make_link: MakeLink
) -> None:
    make_link(server.target).reach(20)
    before = fingerprint(server.host_key)
    server.change_host_key()

    with pytest.raises(HostKeyChanged) as caught:
        make_link(server.target, name="lab-1").reach(20)

    now = fingerprint(server.host_key)
    assert caught.value.message == (
        f"the host key of [127.0.0.1]:{server.port} has changed: pinned is {before}, it shows {now}"
    )


def test_a_forgotten_key_is_pinned_anew(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)
    link.reach(20)
    server.change_host_key()
    wait_for(lambda: link.lost() is not None, "the loss")
    with pytest.raises(HostKeyChanged):
        link.reach(20, now=True)

    link.forget_key()
    link.reach(20)

    assert link.host_key() == fingerprint(server.host_key)


def test_a_changed_key_of_a_jump_host_can_be_forgotten_too(
    make_server: MakeServer, make_link: MakeLink
) -> None:
    jump, behind = make_server(), make_server()
    link = make_link(replace(behind.target, hostname="localhost", jump=jump.target))
    link.reach(20)
    jump.change_host_key()
    with pytest.raises(HostKeyChanged, match=rf"\[127.0.0.1\]:{jump.port} has changed"):
        link.reach(20, now=True)

    link.forget_key()
    link.reach(20)

    assert says(link) == "hello"


# Lost and had again


def test_the_next_engine_takes_the_connection_up(server: SshServer, make_link: MakeLink) -> None:
    make_link(server.target).reach(20)
    sessions = server.sessions()

    second = make_link(server.target)
    second.reach(20)

    assert says(second) == "hello"
    assert server.sessions() == sessions


def test_another_target_by_the_same_name_is_connected_to_anew(
    make_server: MakeServer, make_link: MakeLink
) -> None:
    first, second = make_server(), make_server()
    link = make_link(first.target)
    link.reach(20)

    link.retarget(second.target)
    link.reach(20)

    assert says(link) == "hello"
    assert second.sessions()
    wait_for(lambda: not first.sessions(), "the end of the first connection")


def test_a_killed_connection_is_made_anew(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)
    link.reach(20)

    server.signal_sessions(signal.SIGKILL)
    wait_for(lambda: link.lost() is not None, "the loss")
    link.reach(20)

    assert says(link) == "hello"


def test_whoever_needs_a_lost_connection_is_told_at_once_and_it_comes_back(
    server: SshServer, make_link: MakeLink
) -> None:
    link = make_link(server.target)
    link.reach(20)
    server.signal_sessions(signal.SIGKILL)
    wait_for(lambda: not link.alive(), "the loss")

    with pytest.raises(HostUnreachable):
        link.need()

    def again() -> bool:
        try:
            link.need()
        except HostUnreachable:
            return False
        return True

    assert seconds_until(again) < 5


def test_a_frozen_machine_is_noticed(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)
    link.reach(20)
    server.signal_sessions(signal.SIGSTOP)

    took = seconds_until(lambda: not link.alive())

    assert took < NOTICED
    error = link.lost()
    assert error is not None
    assert error.message == f"{server.target.text} has stopped answering"


def test_between_attempts_lies_a_pause_in_which_the_reason_is_told_at_once(
    server: SshServer, make_link: MakeLink
) -> None:
    server.stop()
    link = make_link(server.target)
    for _ in range(4):
        with pytest.raises(HostUnreachable):
            link.reach(20, now=True)
    server.start()

    assert "refuses connections" in refused(link).message

    link.reach(20, now=True)
    assert says(link) == "hello"


def test_a_script_that_does_not_end_is_given_up(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)
    link.reach(20)

    with pytest.raises(HostUnreachable, match="does not answer within 1 s"):
        link.run_script("sleep 60", 1)

    assert says(link) == "hello"


def test_a_script_that_says_too_much_is_given_up(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)
    link.reach(20)

    with pytest.raises(HostUnreachable, match="more than 1 MB"):
        link.run_script("yes", 20)

    assert says(link) == "hello"


def test_a_dropped_connection_is_made_anew(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)
    link.reach(20)

    link.drop()
    link.reach(20)

    assert says(link) == "hello"


def test_its_end_leaves_nothing_but_the_pin(server: SshServer, make_link: MakeLink) -> None:
    link = make_link(server.target)
    link.reach(20)

    link.end()

    assert [path.name for path in link.config.parent.iterdir()] == ["known_hosts"]
    wait_for(lambda: not server.sessions(), "the end of the connection")
    with pytest.raises(HostUnreachable, match="was given back"):
        link.reach(20, now=True)
