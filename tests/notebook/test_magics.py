"""Loading and unloading in a real IPython shell, and Tab in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.testing.globalipapp import start_ipython

import dstack_jupyter


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A shell with the extension, which is taken out again."""
    shell = start_ipython() or InteractiveShell.instance()
    dstack_jupyter.load_ipython_extension(shell)
    yield shell
    dstack_jupyter.unload_ipython_extension(shell)


def complete(shell: InteractiveShell, text: str) -> list[str]:
    """Return what Tab at the end of *text* offers, of our own."""
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    return [one.text for one in found if one._origin == "dstack"]


def test_loading_twice_and_unloading_leaves_nothing_behind() -> None:
    shell = start_ipython() or InteractiveShell.instance()
    matchers = list(shell.Completer.custom_matchers)
    before = {kind: set(found) for kind, found in shell.magics_manager.magics.items()}
    for _ in range(2):
        dstack_jupyter.load_ipython_extension(shell)
        dstack_jupyter.load_ipython_extension(shell)
        assert len(shell.Completer.custom_matchers) == len(matchers) + 1
        dstack_jupyter.unload_ipython_extension(shell)
        assert shell.Completer.custom_matchers == matchers
        after = {kind: set(found) for kind, found in shell.magics_manager.magics.items()}
        assert after == before


def test_the_magics_help_lists_the_verbs(shell: InteractiveShell) -> None:
    help_text = shell.object_inspect_text("%dstack")
    assert "%%dstack VERB" in help_text
    assert "Run the task in this cell." in help_text


def test_the_magic_can_be_loaded_by_its_first_use() -> None:
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.magics_manager.lazy_magics['dstack'] = 'dstack_jupyter'\n"
        "shell.run_line_magic('dstack', 'help')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "%dstack VERB [options]:" in done.stdout, done.stderr


def test_loading_imports_neither_the_engine_nor_widgets_in_the_cells_own_thread() -> None:
    code = (
        "import sys, threading\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "threading.Thread.start = lambda self: None\n"
        "shell.run_line_magic('load_ext', 'dstack_jupyter')\n"
        "heavy = {'pydantic', 'httpx', 'yaml', 'anywidget', 'jupyter_server', 'openai'}\n"
        "heavy &= set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
