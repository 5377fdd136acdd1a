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
from dstack_jupyter import completion
from dstack_jupyter.completion import Names


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
    kinds = {"verb", "option", "value", "run", "model", "action", "property"}
    return [one.text for one in found if one.type in kinds]


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


def test_tab_knows_verbs_options_and_values(shell: InteractiveShell) -> None:
    assert complete(shell, "%dstack of") == ["offers"]
    assert complete(shell, "x = %dstack of") == ["offers"]
    assert complete(shell, "%%dstack ta") == ["task"]
    assert complete(shell, "%%dstack task --max-") == ["--max-duration", "--max-price"]
    assert complete(shell, "%dstack engine st") == ["start", "status", "stop"]
    assert complete(shell, "%dstack help pr") == ["prune"]


def test_tab_knows_the_keys_and_words_of_the_body(shell: InteractiveShell) -> None:
    body = "%%dstack task -y\ncommands:\n  - x\n"
    assert complete(shell, body + "comm") == ["commands:"]
    assert complete(shell, body + "resources:\n  gp") == ["gpu:"]
    assert complete(shell, body + "spot_policy: on") == ["on-demand"]
    assert complete(shell, body + "commands:\n  - echo im") == []


def test_tab_knows_runs_and_never_waits_for_the_engine(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "NAMES", Names(lambda: ["wet-fox-1", "train"]))
    for verb in ("logs", "stop other", "attach", "exec", "pull"):
        assert complete(shell, f"%dstack {verb} tr") == ["train"], verb


def test_tab_knows_models_and_the_options_of_chat(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "MODELS", Names(lambda: ["tiny", "llama"]))
    assert complete(shell, "%dstack chat ti") == ["tiny"]
    assert complete(shell, "%%dstack chat ll") == ["llama"]
    assert complete(shell, "%dstack chat tiny ll") == []
    assert complete(shell, "%%dstack cha") == ["chat"]
    assert complete(shell, "%%dstack chat tiny --sys") == ["--system"]
    assert complete(shell, "%%dstack chat tiny\nWhat is an im") == []
    assert complete(shell, "%dstack logs web --rep") == ["--replica"]


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
