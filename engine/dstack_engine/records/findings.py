"""What somebody looked at and found: `doctor` on this computer, an examination of a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    subject: str
    text: str
    #: What to do, ready to be copied where it is a command.
    fix: str | None = None
    #: Whether nothing can run on the machine before it is mended.
    fatal: bool = False
