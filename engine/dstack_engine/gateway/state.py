"""The last publication, kept on disk: what a gateway that restarts alone goes on with.

One file, written in one step and readable by its user alone. What cannot be read is set aside with
a line in the log, and the gateway begins with nothing until the engine tells it again.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from dstack_engine.gateway.messages import (
    LONGEST_PUBLICATION,
    decode_publication,
    encode_publication,
)
from dstack_engine.home import write_private
from dstack_engine.records.publication import Publication

logger = logging.getLogger(__name__)

#: What kind of file this is; a gateway that writes another kind cannot read it.
FORMAT = 1


class KeptPublication:
    """The file that holds the last publication."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, publication: Publication) -> None:
        """Write it (0600). A disk that takes nothing is logged: serving goes on all the same."""
        head = b'{"format": %d, "publication": ' % FORMAT
        try:
            write_private(self._path, head + encode_publication(publication) + b"}\n")
        except OSError as error:
            logger.warning("%s: what is published cannot be kept: %s", self._path, error.strerror)

    def load(self) -> Publication | None:
        """Return what was saved last, or None where nothing (readable) lies."""
        try:
            if self._path.stat().st_size > LONGEST_PUBLICATION + 1024:
                raise ValueError("it is too long")
            kept = json.loads(self._path.read_bytes())
            if kept["format"] != FORMAT:
                raise ValueError(f"its format is {kept['format']!r}, not {FORMAT}")
            return decode_publication(json.dumps(kept["publication"]).encode())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            self._set_aside(error)
            return None

    def _set_aside(self, error: Exception) -> None:
        aside = self._path.with_suffix(".broken")
        # Only the first line: what follows may quote what was published.
        why = str(error).partition("\n")[0]
        logger.error("%s cannot be read and is set aside as %s: %s", self._path, aside.name, why)
        try:
            self._path.replace(aside)
        except OSError as failure:
            logger.error("%s cannot be set aside: %s", self._path, failure.strerror)
