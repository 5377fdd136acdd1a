"""The link to one machine: connected, kept, connected anew with growing pauses.

What somebody needs at once (`reach`) is told quickly: that there is a connection, or why there is
none. Connecting itself goes on by a thread of its own, one at a time for each machine. Called by
the hosts on machines reached by SSH.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace
from pathlib import Path
from time import monotonic

from dstack_engine.errors import DstackError, HostKeyChanged, HostUnreachable
from dstack_engine.records.machines import SshTarget
from dstack_engine.ssh import keys, troubles
from dstack_engine.ssh.configs import USER_CONFIG, Trusting, resolved
from dstack_engine.ssh.forwards import Forwards
from dstack_engine.ssh.masters import START_TIMEOUT, Master, NotConnected
from dstack_engine.ssh.trust import KnownHosts, host_name

logger = logging.getLogger(__name__)

#: Seconds between attempts: the first pause, doubled after each failure, and the longest.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
#: So many machines are connected at once: an SSH server that many go through as a jump host drops
#: what comes while ten others are at its door.
HANDSHAKES = 8
#: Where a machine's Docker Engine listens.
DOCKER_SOCKET = "/var/run/docker.sock"
#: Bytes that a script may answer.
SCRIPT_LIMIT = 1 << 20

_handshakes = threading.BoundedSemaphore(HANDSHAKES)


class Link:
    """The connection to machine *name* at *target*, its files in *folder*. For many threads.

    Making it connects to nothing.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        target: SshTarget,
        *,
        known_hosts: KnownHosts,
        user_config: Path = USER_CONFIG,
    ) -> None:
        self.target = target
        self._known_hosts = known_hosts
        self._master = Master(folder, name, target, Trusting(known_hosts.path, user_config))
        self.forwards = Forwards(self._master)
        #: Called by the thread that has connected, before anybody is told so; raises nothing.
        self.on_connected: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._attempt: Future[None] | None = None
        self._trouble: HostUnreachable | None = None
        self._failures = 0
        self._next_at = 0.0
        #: Whether it was never found out whether it can be reached.
        self._unknown = True
        self._ended = False

    @property
    def config(self) -> Path:
        """Return the configuration by which `ssh -F` goes the same way."""
        return self._master.config

    @property
    def control(self) -> Path:
        """Return the socket by which `ssh -S` uses this connection."""
        return self._master.control

    @property
    def docker_socket(self) -> Path:
        """Return the socket of this computer that leads to the machine's Docker Engine."""
        return self._master.folder / f"{self._master.name}.docker"

    # Being connected

    def reach(self, patience: float, *, now: bool = False) -> None:
        """Return once there is a connection, after *patience* seconds at most.

        Between two attempts lies a pause; meanwhile it raises at once what the last one met, unless
        it is to be tried *now*. Raises `HostUnreachable`, `HostKeyChanged`.
        """
        attempt = self._begin(now)
        if attempt is None:
            raise self._again()
        try:
            attempt.result(patience)
        except (NotYet, HostUnreachable):
            raise self._again() from None

    def need(self) -> None:
        """Return if there is a connection; else raise why there is none, and have it made anew.

        Waits only for the first connection of this process. Raises as `reach` does.
        """
        self.reach(START_TIMEOUT if self._unknown else 0)

    def alive(self) -> bool:
        """Tell, in no time, whether there is a connection as far as this computer knows."""
        return self._master.answers()

    def lost(self) -> HostUnreachable | None:
        """Return why there is no connection any more, and have it made anew; None if there is."""
        if self.alive():
            return None
        self._begin(now=False)
        return self._again()

    def _begin(self, now: bool) -> Future[None] | None:
        """Return the attempt that has succeeded or is under way; None during a pause."""
        with self._lock:
            attempt = self._attempt
            if attempt is not None and not attempt.done():
                return attempt
            if attempt is not None and attempt.exception() is None:
                if self.alive():
                    return attempt
                self._note_loss()
            if self._ended:
                self._trouble = HostUnreachable(f"{self.target.text} was given back")
                return None
            if not now and monotonic() < self._next_at:
                return None
            self._attempt = attempt = Future()
        threading.Thread(
            target=self._try, args=(attempt,), name=f"link to {self._master.name}", daemon=True
        ).start()
        return attempt

    def _note_loss(self) -> None:
        trouble = troubles.loss(self._master.read_log(), self.target)
        self._trouble = HostUnreachable(trouble.text, hint=trouble.fix)
        self._attempt = None
        logger.info("%s: the connection was lost: %s", self._master.name, trouble.text)

    def _again(self) -> HostUnreachable:
        """Return the last trouble as an error of its own."""
        trouble = self._trouble
        if trouble is None:
            return HostUnreachable(f"{self.target.text} is being connected to; it takes long")
        return type(trouble)(trouble.message, hint=trouble.hint)

    def retarget(self, target: SshTarget) -> None:
        """Reach the machine by another way from now on; nothing when it is the same."""
        with self._lock:
            if target == self.target:
                return
            self.target = target
            self._master = replace(self._master, target=target)
            self.forwards.follow(self._master)
            self._attempt, self._next_at, self._unknown = None, 0.0, True

    # The thread

    def _try(self, attempt: Future[None]) -> None:
        try:
            with self._connecting, _handshakes:
                # Meanwhile the machine may be reached by another way, or have been given back.
                if attempt is self._attempt and not self._ended:
                    self._connect()
            self.on_connected()
        except Exception as error:
            self._note_failure(error)
            attempt.set_exception(error if isinstance(error, HostUnreachable) else self._again())
        else:
            self._failures, self._next_at, self._trouble = 0, 0.0, None
            self._unknown = False
            attempt.set_result(None)

    def _note_failure(self, error: Exception) -> None:
        if not isinstance(error, DstackError):
            logger.exception("%s: cannot be connected to", self._master.name)
        words = error.message if isinstance(error, DstackError) else f"cannot connect: {error}"
        known = isinstance(error, HostUnreachable)
        self._trouble = error if known else HostUnreachable(words)  # type: ignore[assignment]
        self._failures += 1
        self._unknown = False
        pause = min(FIRST_PAUSE * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE)
        self._next_at = monotonic() + pause * random.uniform(0.5, 1.0)
        if self._failures == 1:
            logger.info("%s: %s", self._master.name, words)

    def _connect(self) -> None:
        self._known_hosts.make()
        if self._master.check():
            self.forwards.adopt()
        else:
            self._master.exit()
            self.forwards.begin()
            self._start()
        self._forward_docker()

    def _start(self) -> None:
        try:
            self._master.start()
        except TimeoutError as error:
            raise HostUnreachable(
                f"{self.target.text} was not connected to within {START_TIMEOUT:.0f} s",
                hint=f"Try it: {troubles.command(self.target)}",
            ) from error
        except NotConnected as error:
            raise self._explained(str(error)) from error

    def _explained(self, said: str) -> HostUnreachable:
        """Return the error for the words of an ssh that gave up."""
        change = troubles.key_change(said)
        if change is not None:
            ours = change.file == self._known_hosts.path
            return HostKeyChanged(
                f"the host key of {change.name} has changed: pinned is {change.pinned}, "
                f"it shows {change.shown}",
                hint=None if ours else f"ssh-keygen -f {change.file} -R '{change.name}'",
            )
        trouble = troubles.understand(said, self.target)
        hop = trouble.refused_by
        if hop is not None:
            identities = resolved(self.config, hop).get("identityfile", [])
            trouble = keys.refusal(trouble.text, hop, identities)
        return HostUnreachable(trouble.text, hint=trouble.fix)

    def _forward_docker(self) -> None:
        forward = f"./{self.docker_socket.name}:{DOCKER_SOCKET}"
        if not self.docker_socket.exists():
            self._master.tell("cancel", "-L", forward)
        answer = self._master.tell("forward", "-L", forward)
        if answer.status != 0:
            raise HostUnreachable(
                f"{self.target.text}: its Docker Engine's socket cannot be forwarded: "
                f"{answer.words[:200]}"
            )

    # What goes over it

    def run_script(self, text: str, timeout: float, *, shell: str = "sh -s") -> str:
        """Run a POSIX shell script on the machine; return what it printed.

        Raises `HostUnreachable` when it has not ended after *timeout* seconds, or when the machine
        refuses to run anything; the script's own exit status does not matter.
        """
        answer = self._master.run(shell, text.encode(), timeout, SCRIPT_LIMIT)
        if answer.status == _SSH_FAILED and not answer.output:
            why = answer.words.splitlines()[-1:] or ["it said nothing"]
            raise HostUnreachable(f"{self.target.text} runs no command for us: {why[0][:200]}")
        return answer.output.decode(errors="replace")

    def try_forward(self, address: str, port: int) -> str | None:
        """Tell, in 5 s at most, why a port of the machine cannot be forwarded; None where it can.

        What listens at *address* and *port* has to speak first, as the machine's SSH server does.
        """
        return self.forwards.trial(address, port)

    def host_key(self) -> str | None:
        """Return the fingerprint of the machine's host key; None where none is known."""
        return self._known_hosts.fingerprint(self._host_name(self.target))

    def trim_log(self) -> None:
        """Keep the master's log small."""
        self._master.trim_log()

    # Its end

    def end(self) -> None:
        """Close the connection for good."""
        with self._lock:
            self._ended = True
        self.drop()

    def drop(self) -> None:
        """Close the connection and remove its files; whoever needs it makes it anew."""
        with self._connecting:
            self._master.exit()
            for ending in ("config", "control", "docker", "forwards", "log"):
                path = self._master.folder / f"{self._master.name}.{ending}"
                path.unlink(missing_ok=True)

    def forget_key(self) -> None:
        """Close the connection and forget the pinned host key, a changed jump host's, too."""
        changed = troubles.key_change(self._master.read_log())
        names = {self._host_name(self.target)} | ({changed.name} if changed else set())
        self.drop()
        for name in names:
            self._known_hosts.forget(name)
        with self._lock:
            self._next_at = 0.0

    def _host_name(self, target: SshTarget) -> str:
        """Return what *target* is called among the known hosts."""
        with contextlib.suppress(TimeoutError, HostUnreachable):
            found = resolved(self.config, target) if self.config.exists() else {}
            if alias := found.get("hostkeyalias"):
                return alias[0]
            if found.get("hostname"):
                return host_name(found["hostname"][0], int(found["port"][0]))
        return host_name(target.hostname, target.port or 22)


#: The exit status of `ssh` itself.
_SSH_FAILED = 255
