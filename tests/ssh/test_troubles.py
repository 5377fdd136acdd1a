"""What ssh says, in its own recorded words, and what a person is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack_engine.records.machines import SshTarget
from dstack_engine.ssh.troubles import command, key_change, loss, understand
from dstack_engine.ssh.trust import KeyChange

JUMP = SshTarget("bastion", 2222, "eve")
BOX = SshTarget("10.0.0.5", user="ann", identity_file="/home/ann/.ssh/id", jump=JUMP)

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Someone could be eavesdropping on you right now (man-in-the-middle attack)!
It is also possible that a host key has just been changed.
The fingerprint for the ED25519 key sent by the remote host is
SHA256:Gj7rBELBnFgEtljuhFEv4lRzV8JeL48P/pMlWIqxfVc.
Please contact your system administrator.
Add correct host key in /home/ann/a home/known_hosts to get rid of this message.
Offending ED25519 key in /home/ann/a home/known_hosts:3
  remove with:
  ssh-keygen -f "/home/ann/a home/known_hosts" -R "[10.0.0.5]:2222"
Host key for [10.0.0.5]:2222 has changed and you have requested strict checking.
Host key verification failed.
"""

SAID = {
    "ssh: connect to host 10.0.0.5 port 22: Connection refused": (
        "10.0.0.5 refuses connections on port 22"
    ),
    "ssh: connect to host 10.0.0.5 port 22: Connection timed out": (
        "10.0.0.5 does not answer on port 22 within 5 s"
    ),
    "ssh: connect to host bastion port 2222: Operation timed out": (
        "the jump host bastion does not answer on port 2222 within 5 s"
    ),
    "ssh: connect to host 10.0.0.5 port 22: No route to host": (
        "there is no way to 10.0.0.5: no route to host"
    ),
    "ssh: connect to host 10.0.0.5 port 22: Cannot assign requested address": (
        "cannot connect to 10.0.0.5 on port 22: Cannot assign requested address"
    ),
    "ssh: Could not resolve hostname bastion: Temporary failure in name resolution": (
        "nobody knows the name the jump host bastion"
    ),
    "ann@10.0.0.5: Permission denied (publickey,password).": (
        "ann@10.0.0.5 does not take your key"
    ),
    "ann@10.0.0.5: Permission denied (password,keyboard-interactive).": (
        "ann@10.0.0.5 takes no keys, only: password, keyboard-interactive"
    ),
    "eve@bastion: Permission denied (publickey).\n"
    "kex_exchange_identification: Connection closed by remote host\n"
    "Connection closed by UNKNOWN port 65535": "eve@the jump host bastion does not take your key",
    "Received disconnect from 10.0.0.5 port 22:2: Too many authentication failures\n"
    "Disconnected from 10.0.0.5 port 22": (
        "ann@10.0.0.5 was offered too many keys before the right one"
    ),
    "channel 0: open failed: administratively prohibited: open failed\n"
    "stdio forwarding failed": "eve@bastion:2222 does not let connections through to 10.0.0.5",
    "channel 0: open failed: connect failed: No route to host\nstdio forwarding failed": (
        "eve@bastion:2222 cannot connect to 10.0.0.5: no route to host"
    ),
    "Connection timed out during banner exchange\nConnection to 10.0.0.5 port 22 timed out": (
        "ann@10.0.0.5 takes the connection but says nothing within 5 s"
    ),
    "kex_exchange_identification: read: Connection reset by peer": (
        "ann@10.0.0.5 closes the connection before it says who it is"
    ),
    "Unable to negotiate with 10.0.0.5 port 22: no matching host key type found. "
    "Their offer: ssh-rsa,ssh-dss": (
        "ann@10.0.0.5 and this computer have no host key type in common; it offers: ssh-rsa,ssh-dss"
    ),
    "@@@@@\nPermissions 0644 for '/home/ann/.ssh/id' are too open.\nIt is required …\n"
    "ann@10.0.0.5: Permission denied (publickey).": (
        "the key /home/ann/.ssh/id can be read by others, so ssh does not use it"
    ),
    "Bad owner or permissions on /home/ann/.ssh/config": (
        "/home/ann/.ssh/config can be written by others, so ssh does not use it"
    ),
    "/home/ann/.ssh/config: line 3: Bad configuration option: hostnme\n"
    "/home/ann/.ssh/config: terminating, 1 bad configuration options": (
        "ssh does not understand /home/ann/.ssh/config, line 3: Bad configuration option: hostnme"
    ),
    "Warning: Permanently added '10.0.0.5' (ED25519) to the list of known hosts.\nsome news": (
        "cannot connect to ann@10.0.0.5: some news"
    ),
    "": "cannot connect to ann@10.0.0.5: ssh ended without a word",
}


@pytest.mark.parametrize("said", SAID, ids=lambda said: said[:50] or "nothing")
def test_words_of_ssh_become_a_sentence(said: str) -> None:
    assert understand(said, BOX).text == SAID[said]


def test_what_is_not_understood_comes_with_a_command_to_try() -> None:
    assert understand("", BOX).fix == (
        "Try it: ssh -i /home/ann/.ssh/id -J eve@bastion:2222 ann@10.0.0.5"
    )
    assert command(SshTarget("box", 2200)) == "ssh -p 2200 box"


def test_a_changed_key_is_read_with_its_place() -> None:
    assert key_change(CHANGED) == KeyChange(
        "[10.0.0.5]:2222",
        "SHA256:Gj7rBELBnFgEtljuhFEv4lRzV8JeL48P/pMlWIqxfVc",
        Path("/home/ann/a home/known_hosts"),
        3,
    )
    assert key_change("Host key verification failed.") is None


def test_a_loss_is_told_by_the_last_word_only() -> None:
    visitors = "channel 7: open failed: connect failed: Connection refused\n"

    assert loss(visitors, BOX).text == "the connection to ann@10.0.0.5 was lost"
    assert loss(f"{visitors}Timeout, server 10.0.0.5 not responding.\n", BOX).text == (
        "ann@10.0.0.5 has stopped answering"
    )
    assert loss("Connection to 10.0.0.5 closed by remote host.\n", BOX).text == (
        "ann@10.0.0.5 has closed the connection"
    )
