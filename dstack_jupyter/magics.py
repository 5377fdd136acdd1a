"""`%dstack` and `%%dstack` in IPython: read the words, call the verb, return its value.

Loading is quick (some 20 ms): everything but this module is imported in a thread afterwards, or at
the first call, whichever comes first; that is some 0.7 s of imports which no cell then waits for.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)

from dstack_jupyter.inspection import KeyInspection, key_asked_in

#: What the first call needs; imported in the background after loading.
_NEEDED = (
    "dstack_jupyter.commands.call",
    "dstack_jupyter.commands.submitting",
    "dstack_jupyter.surfaces.notebook",
    "dstack_jupyter.completion",
    "dstack_jupyter.rendering.keys",
)


@magics_class
class DstackMagics(Magics):
    """The magic, in its two forms."""

    def __init__(self, shell: InteractiveShell) -> None:
        """Make the magics of *shell*; nothing is connected before the first call."""
        super().__init__(shell)
        self._shell = shell
        self.inspection: KeyInspection | None = None

    @line_cell_magic
    @no_var_expand
    @needs_local_scope
    def dstack(
        self, line: str, cell: str | None = None, local_ns: dict[str, object] | None = None
    ) -> object:
        """Run tasks and services: %%dstack VERB with a configuration below it, or %dstack VERB."""
        from dstack_jupyter.arguments import split  # noqa: PLC0415  # keeps loading quick
        from dstack_jupyter.commands.call import perform  # noqa: PLC0415
        from dstack_jupyter.session import session  # noqa: PLC0415
        from dstack_jupyter.surfaces.notebook import surface_of  # noqa: PLC0415

        words = split(line)
        if cell is not None and (key := key_asked_in(line, cell)) is not None:
            words, cell = ["help", key], None

        return perform(
            words,
            surface=surface_of(self._shell),
            session=session,
            body=cell,
            variables=local_ns,
        )


def _help() -> str:
    """Return what `%dstack?` shows: the list of all verbs."""
    from dstack_jupyter.commands.table import NOTEBOOK, overview  # noqa: PLC0415

    return f"Run and watch tasks and services from the notebook.\n\n{overview(NOTEBOOK)}"


# IPython's inspector asks an object for its help by this name.
setattr(DstackMagics.dstack, "getdoc", _help)  # noqa: B010  # a function, to type checkers


def load(shell: InteractiveShell) -> None:
    """Give *shell* the magics and the completion, and its kernel the help for keys."""
    if isinstance(_registered(shell), DstackMagics):
        return
    magics = DstackMagics(shell)
    shell.register_magics(magics)
    kernel = getattr(shell, "kernel", None)
    if hasattr(kernel, "do_inspect"):  # a terminal's IPython has no kernel
        magics.inspection = KeyInspection(kernel)
    if shell.Completer is not None and hasattr(shell.Completer, "custom_matchers"):
        shell.Completer.custom_matchers.append(_match)
    threading.Thread(target=_warm, name="dstack-warm", daemon=True).start()


def unload(shell: InteractiveShell) -> None:
    """Take away what `load` gave, and end what watches runs in this process."""
    magics = _registered(shell)
    if isinstance(magics, DstackMagics) and magics.inspection is not None:
        magics.inspection.remove()
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("dstack", None)
    shell.magics_manager.registry.pop(DstackMagics.__name__, None)
    if shell.Completer is not None:
        with contextlib.suppress(ValueError, AttributeError):
            shell.Completer.custom_matchers.remove(_match)
    from dstack_jupyter.session import close_session  # noqa: PLC0415

    close_session()


def _registered(shell: InteractiveShell) -> object:
    magic = shell.magics_manager.magics["line"].get("dstack")
    return getattr(magic, "__self__", None)


def _warm() -> None:
    for module in _NEEDED:
        with contextlib.suppress(ImportError):  # the first call will say what is wrong
            importlib.import_module(module)


def _match(context: Any) -> Any:
    """Complete inside `%dstack` lines and `%%dstack` cells; see `completion`."""
    from dstack_jupyter.completion import match  # noqa: PLC0415

    return match(context)


_match.matcher_api_version = 2  # type: ignore[attr-defined]
_match.matcher_identifier = "dstack"  # type: ignore[attr-defined]
