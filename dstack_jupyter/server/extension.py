"""What Jupyter Server loads: it adds our handlers, and ends what they began. Kernels need none.

Loading asks and starts nothing; an engine is started when a page wants one.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.extension.application import ExtensionApp

from dstack_engine import __version__
from dstack_jupyter.server.asking import SETTING, UnknownHandler
from dstack_jupyter.server.changes import CHANGES, Changes, events_schema
from dstack_jupyter.server.handlers import ROUTES
from dstack_jupyter.server.proxying import PROXIES
from dstack_jupyter.server.rows import NAMESPACE, Row


class DstackExtension(ExtensionApp):
    """The server's side of dstack-jupyter."""

    name = "dstack_jupyter"
    version = __version__

    def initialize_settings(self) -> None:
        """Give the handlers what they share, and Jupyter the schema of our events."""
        assert self.serverapp is not None
        logger = self.serverapp.event_logger
        assert logger is not None
        logger.register_event_schema(events_schema())

        def emit(change: Row) -> None:
            logger.emit(schema_id=CHANGES, data=change)

        self.settings[SETTING] = Changes(emit)

    def initialize_handlers(self) -> None:
        """Add the routes, and a refusal for everything else below ours."""
        routes: list[tuple[str, Any]] = [*ROUTES, *PROXIES, (".*", UnknownHandler)]
        self.handlers.extend((f"/{NAMESPACE}/{path}", handler) for path, handler in routes)

    async def stop_extension(self) -> None:
        """Watch no more; engine and runs stay as they are."""
        changes = self.settings.get(SETTING)
        if isinstance(changes, Changes):
            changes.stop()
