"""The control master of a machine: one `ssh` that holds the connection, and outlives the engine.

It is a process in a session of its own that forwards what it is told to through its socket. Its
sockets are named from the folder that it works in, so that a home may lie as deep as it likes.
Called by `links` and `forwards`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from dstack_engine.errors import HostUnreachable
from dstack_engine.home import write_private
from dstack_engine.records.machines import SshTarget
from dstack_engine.ssh.commands import LIMIT, Answer, run, run_to_background
from dstack_engine.ssh.configs import Trusting, arguments, config_text
from dstack_engine.unix_sockets import ShortPath

#: Seconds for a connection with all its hops, from the first packet to a key that was taken.
START_TIMEOUT = 20.0
#: Seconds for a word with a master that lives; it takes 0.02 on an idle computer.
CONTROL_TIMEOUT = 5.0
#: Bytes of its log that are kept: it grows with every connection to a port on which nobody listens.
LOG_LIMIT = 256 << 10
#: Of a log, no more than this is read.
_LOG_READ = 64 << 10

#: The machine's name does not matter to who talks to a master; where there is none, the call is to
#: fail and not to connect by itself.
_NOWHERE = ("-o", "ProxyCommand=exec false", "master")


class NotConnected(Exception):
    """`ssh` gave up; its text is what ssh said."""


@dataclass(frozen=True)
class Master:
    """The master of machine *name*, whose files lie in *folder*."""

    folder: Path
    name: str
    target: SshTarget
    trusting: Trusting

    @property
    def config(self) -> Path:
        """Return its configuration; ``ssh -F`` it, and a terminal goes the same way."""
        return self.folder / f"{self.name}.config"

    @property
    def control(self) -> Path:
        """Return its control socket."""
        return self.folder / f"{self.name}.control"

    @property
    def log(self) -> Path:
        """Return what it has to say."""
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        """Connect, and return once a key was taken; `START_TIMEOUT` at most.

        The place of an earlier master has to be free (`exit`). Raises `NotConnected`,
        `TimeoutError`, `HostUnreachable` when no ssh is installed.
        """
        text = config_text(self.target, self.trusting)
        write_private(self.config, text.encode())
        self.control.unlink(missing_ok=True)
        write_private(self.log, b"")
        argv = ["ssh", "-F", self.config.name, "-f", "-N", "-M", "-S", f"./{self.control.name}"]
        argv += ["-E", self.log.name, *arguments(self.target)]
        with self.log.open("ab") as errors:
            status = run_to_background(
                argv, folder=self.folder, errors=errors, timeout=START_TIMEOUT
            )
        if status != 0 or not self.answers():
            raise NotConnected(self.read_log())

    def answers(self) -> bool:
        """Tell, in no time, whether it takes connections; a machine that froze is not noticed."""
        if not self.control.exists():
            return False
        with socket.socket(socket.AF_UNIX) as probe, ShortPath(self.control) as path:
            probe.settimeout(CONTROL_TIMEOUT)
            # One that has many callers at this moment lets another wait: EAGAIN.
            return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)

    def check(self) -> bool:
        """Tell whether it lives and was started for the same target by the same rules."""
        with contextlib.suppress(OSError):
            if self.config.read_text() == config_text(self.target, self.trusting):
                return self.answers() and self.tell("check").status == 0
        return False

    def tell(self, command: str, *options: str) -> Answer:
        """Give it a *command* of ``ssh -O``, with *options*. Raises `HostUnreachable`."""
        return self._run(["-O", command, *options, "master"], CONTROL_TIMEOUT)

    def run(self, command: str, given: bytes, timeout: float, limit: int = LIMIT) -> Answer:
        """Run *command* on the machine with *given* on its stdin, *timeout* seconds at most.

        Raises `HostUnreachable` when it does not end in time, or when there is no connection.
        """
        return self._run(["-T", *_NOWHERE, command], timeout, given, limit)

    def exit(self) -> None:
        """End it, and all connections through it; nothing where there is none."""
        with contextlib.suppress(HostUnreachable):
            self.tell("exit")
        self.control.unlink(missing_ok=True)

    def read_log(self) -> str:
        """Return the end of what it said."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - _LOG_READ, 0))
                return file.read(_LOG_READ).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def trim_log(self) -> None:
        """Begin its log anew when it has become long."""
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_LIMIT:
                os.truncate(self.log, 0)  # ssh appends to it, wherever its end is

    def _run(
        self, words: list[str], timeout: float, given: bytes = b"", limit: int = LIMIT
    ) -> Answer:
        argv = ["ssh", "-F", "none", "-S", f"./{self.control.name}", *words]
        try:
            return run(argv, timeout=timeout, folder=self.folder, given=given, limit=limit)
        except TimeoutError as error:
            where = self.target.text
            raise HostUnreachable(f"{where} does not answer within {timeout:.0f} s") from error
