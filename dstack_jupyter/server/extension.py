"""What Jupyter Server loads: it adds our handlers. Kernels need none of this."""

from __future__ import annotations

from jupyter_server.serverapp import ServerApp

from dstack_jupyter.server.handlers import add_handlers


def _load_jupyter_server_extension(server: ServerApp) -> None:
    add_handlers(server.web_app)
    server.log.info("dstack-jupyter is loaded; an engine is started when a page first needs it")
