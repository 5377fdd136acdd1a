"""`StrEnum` for Python 3.10 too: members are their words, on the wire and in SQL."""

from __future__ import annotations

import sys
from enum import Enum

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:

    class StrEnum(str, Enum):
        """The same as Python 3.11's: `str(member)` is the member's value."""

        __str__ = str.__str__


__all__ = ["StrEnum"]
