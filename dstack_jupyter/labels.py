"""Who of several printed a line: its number in brackets in front of it.

Called by the terminal's surface, for services of several replicas and tasks of several nodes, and
by a task's card, for its nodes.
"""

from __future__ import annotations

import re

from dstack_engine.records.runs import RunView
from dstack_jupyter.replicas import is_service

_LINES = re.compile(rb"[^\n]*\n|[^\n]+")


class Labels:
    """Says in front of each line which replica or node it is from, where there may be several."""

    def __init__(self, view: RunView) -> None:
        """Label the output of *view*'s jobs, and of those that are to come."""
        wanted = view.run.configuration
        replicas = getattr(wanted, "replicas", None)
        several = replicas is not None and replicas.max > 1
        self._wanted = several if is_service(view) else getattr(wanted, "nodes", 1) > 1
        self._name = f"{view.name}-0-" if is_service(view) else f"{view.name}-"
        self._last = ""
        self._open = False  # the last line has no end yet

    def put(self, log: str, payload: bytes) -> bytes:
        """Return *payload* with its labels; a line that somebody else left open is ended."""
        if not self._wanted:
            return payload
        label = f"[{log.removeprefix(self._name).split('-')[0]}] ".encode()
        written = []
        if self._open and self._last != log:
            written.append(b"\n")
            self._open = False
        self._last = log
        for piece in _LINES.findall(payload):
            written.append(piece if self._open else label + piece)
            self._open = not piece.endswith(b"\n")
        return b"".join(written)
