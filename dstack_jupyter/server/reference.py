"""The help for every key of a configuration, as the page shows it while somebody types.

Called by `handlers`; the kernel's completion reads the same lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from dstack_engine.spec.configurations import CONFIGURATION_TYPES
from dstack_engine.spec.schema import keys_of

#: No key lies deeper; a schema that contained itself would have no end.
_DEEPEST = 6


@cache
def reference() -> dict[str, dict[str, str]]:
    """Return, by command and key path, each key's line: ``task`` → ``resources.gpu``."""
    return {kind: dict(_lines(kind)) for kind in CONFIGURATION_TYPES}


def _lines(kind: str, *path: str) -> Iterator[tuple[str, str]]:
    if len(path) >= _DEEPEST:
        return
    for key, line in keys_of(kind, *path).items():
        yield ".".join((*path, key)), line
        yield from _lines(kind, *path, key)
