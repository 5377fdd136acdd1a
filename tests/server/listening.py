"""A page's ear: takes our events from Jupyter's channel until one says what is waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from dstack_jupyter.server.changes import CHANGES

#: Seconds; far more than anything takes, for a machine that others keep busy.
PATIENCE = 60.0


class Listener:
    """What was heard on one event channel."""

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        """Hear nothing before it is opened."""
        self._connect = connect
        self._socket: Any = None
        self.heard: list[dict[str, Any]] = []

    async def open(self) -> None:
        """Hear from now on."""
        self._socket = await self._connect()

    def close(self) -> None:
        """Hear no more."""
        if self._socket is not None:
            self._socket.close()

    async def until(self, told: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first change that *told* is true of."""
        while True:
            text = await asyncio.wait_for(self._socket.read_message(), PATIENCE)
            assert text is not None, "the channel was closed"
            event = json.loads(text)
            if event["schema_id"] == CHANGES:
                self.heard.append(event)
                if told(event):
                    return event

    async def until_run(self, name: str, **fields: Any) -> dict[str, Any]:
        """Return the first row of the run *name* that has these fields."""
        found: list[dict[str, Any]] = []

        def told(change: dict[str, Any]) -> bool:
            for row in change.get("runs", ()):
                if row["name"] == name and fields.items() <= row.items():
                    found.append(row)
            return bool(found)

        await self.until(told)
        return found[0]
