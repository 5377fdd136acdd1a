"""Fleets from a notebook and a terminal, with a real engine and machines that nobody answers on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_engine.home import Home
from dstack_engine.launcher import connect
from tests.notebook.kernels import Notebook
from tests.notebook.test_cli import run

BODY = "ssh_config:\n  user: ann\n  port: {port}\n  hosts: [127.0.0.1]\n"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this computer on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.slow
def test_a_cell_makes_a_fleet_and_says_what_is_to_be_mended(
    notebook: Notebook, closed_port: int
) -> None:
    made = notebook.run(f"%%dstack fleet -n lab --wait\n{BODY.format(port=closed_port)}")
    assert (made.status, made.error) == ("error", "FleetNotUsable")
    assert "1 of 1 machine of lab cannot be used: lab-0" in made.error_text
    assert "1 machine: 1 not usable" in made.text
    shown = notebook.run("%dstack fleet show lab")
    assert f"ann@127.0.0.1:{closed_port}" in shown.text
    assert "✗" in shown.text
    assert "fix:" in shown.text
    listed = notebook.run("%dstack fleet list")
    assert "lab-0" in listed.text
    trusted = notebook.run("%dstack fleet trust lab 10.1.2.3")
    assert (trusted.status, trusted.error) == ("error", "NotFound")
    assert f"it has: ann@127.0.0.1:{closed_port}" in trusted.error_text
    gone = notebook.run("%dstack fleet delete lab --force")
    assert gone.stdout == "lab is being let go\n"
    with connect(Home.of_user()) as client:
        assert [view for view in client.fleets() if not view.fleet.delete_requested_at] == []


def test_a_key_that_is_not_there_is_told_with_its_place_before_anything_is_sent(
    notebook: Notebook, project: Path
) -> None:
    body = "ssh_config:\n  hosts:\n    - {hostname: box, identity_file: keys/none}\n"
    cell = notebook.run(f"%%dstack fleet -n lab\n{body}")
    assert (cell.status, cell.error) == ("error", "ConfigurationError")
    assert "line 4, column 38: ssh_config.hosts[0].identity_file: there is no key" in (
        cell.error_text
    )
    assert str(project / "keys" / "none") in cell.error_text
    (project / "id.pub").write_text("ssh-ed25519 AAAA")
    public = notebook.run(
        "%%dstack fleet -n lab\nssh_config: {identity_file: id.pub, hosts: [box]}"
    )
    assert "is a public key; name the private one" in public.error_text
    wrong = notebook.run("%dstack fleet sho lab")
    assert "does not know 'sho'; did you mean show?" in wrong.error_text
    nameless = notebook.run("%%dstack fleet\nssh_config: {hosts: [box]}")
    assert "name: a fleet needs a name" in nameless.error_text
    assert not Home.of_user().engine_file.exists()


@pytest.mark.slow
def test_a_terminal_adds_machines_one_by_one_and_ends_with_1_while_one_is_not_usable(
    project: Path, home: Path, closed_port: int
) -> None:
    (project / "key").write_text("no key at all")
    words = ["pool", "add-ssh", "ann@127.0.0.1", "-p", str(closed_port), "-i", "key"]
    first = run(project, *words)
    assert first.returncode == 1, first
    assert f"default-pool-0  ann@127.0.0.1:{closed_port}  not usable" in first.stdout
    assert "cannot be used" in first.stderr
    run(project, "pool", "add-ssh", "127.0.0.2", "-p", str(closed_port), "--blocks", "4")
    with connect(Home.of_user()) as client:
        config = client.fleet("default-pool").fleet.configuration.ssh_config
    assert config is not None
    assert [(host.hostname, host.user, host.blocks) for host in config.hosts] == [
        ("127.0.0.1", "ann", None),
        ("127.0.0.2", None, 4),
    ]
    assert config.hosts[0].identity_file == str(project / "key")
    listed = run(project, "fleet")
    assert [line.split()[1] for line in listed.stdout.splitlines()[1:]] == [
        "default-pool-0",
        "default-pool-1",
    ]
    asked = run(project, "fleet", "delete", "default-pool")
    assert "Add -y to go on without a question." in asked.stderr
    gone = run(project, "fleet", "delete", "default-pool", "-y", "--force", "-i", "1")
    assert gone.stdout == "machines 1 of default-pool is being let go\n"


def test_a_file_makes_a_fleet_and_a_dry_run_makes_none(project: Path, home: Path) -> None:
    (project / "lab.dstack.yml").write_text("type: fleet\nname: lab\nssh_config: {hosts: [a, b]}\n")
    dry = run(project, "apply", "-f", "lab.dstack.yml", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, "The fleet lab would have: a, b\n"), dry.stderr
    detached = run(project, "apply", "-f", "lab.dstack.yml", "-d")
    assert (detached.returncode, detached.stdout) == (0, "lab\n"), detached.stderr
    text = "type: fleet\nname: lab\nssh_config: {identity_file: none, hosts: [a]}\n"
    (project / "lab.dstack.yml").write_text(text)
    wrong = run(project, "apply", "-f", "lab.dstack.yml")
    assert wrong.returncode == 2
    assert "lab.dstack.yml: line 3, column 29" in wrong.stderr
