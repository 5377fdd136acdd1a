"""dstack in a notebook: `%load_ext dstack_jupyter`, then `%%dstack task`.

The names below are what IPython and Jupyter Server look for. Each imports its side only when it is
called: a kernel needs no server, a server no kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dstack_engine import __version__ as __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from openai import AsyncOpenAI, OpenAI


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Give *shell* the magics; called by `%load_ext dstack_jupyter`."""
    from dstack_jupyter.magics import load  # noqa: PLC0415  # light, and for kernels only

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take from *shell* all that loading gave it; runs and engine are left alone."""
    from dstack_jupyter.magics import unload  # noqa: PLC0415

    unload(shell)


def openai(**options: Any) -> OpenAI:
    """Return an `openai.OpenAI` that speaks to the models that your services serve.

    Address and key are filled in; *options* go to the client and win. An engine is started if none
    runs. Raises `Refused` where no gateway runs yet or the package openai is not installed.
    """
    from dstack_jupyter.gateway import Gateway  # noqa: PLC0415  # keeps loading quick
    from dstack_jupyter.session import session  # noqa: PLC0415

    return Gateway(session().client).openai(**options)


def openai_async(**options: Any) -> AsyncOpenAI:
    """Return an `openai.AsyncOpenAI`; as `openai`."""
    from dstack_jupyter.gateway import Gateway  # noqa: PLC0415
    from dstack_jupyter.session import session  # noqa: PLC0415

    return Gateway(session().client).openai_async(**options)


def token() -> str:
    """Return the token for services and models: a `str` whose repr does not show it."""
    from dstack_jupyter.gateway import Gateway  # noqa: PLC0415
    from dstack_jupyter.session import session  # noqa: PLC0415

    return Gateway(session().client).token()


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Return where Jupyter Server finds the server's side."""
    from dstack_jupyter.server.extension import DstackExtension  # noqa: PLC0415  # for servers only

    return [{"module": "dstack_jupyter.server.extension", "app": DstackExtension}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Return where the page's side is once it is built, and under which name Lab knows it."""
    return [{"src": "labextension", "dest": "dstack-jupyter"}]
