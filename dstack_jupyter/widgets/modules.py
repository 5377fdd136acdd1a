"""Put a widget's hand-written modules together: a front end takes one module per widget.

Called when the widgets' classes are made; there is no build step.
"""

from __future__ import annotations

import re
from pathlib import Path

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w.]+";\n', re.MULTILINE)


def source(name: str) -> str:
    """Return the text of a file beside this one."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def joined(*names: str) -> str:
    """Return the modules *names* as one, each before those that import from it."""
    return "\n".join(_IMPORT.sub("", source(name)) for name in names)
