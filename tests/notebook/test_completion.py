"""Tab in `%dstack` lines and `%%dstack` cells of a real IPython shell, and over a real kernel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.testing.globalipapp import start_ipython

import dstack_jupyter
from dstack_engine.errors import EngineDown
from dstack_jupyter import known_names
from dstack_jupyter.known_names import Names
from tests.notebook.kernels import PATIENCE, Notebook

TASK = "%%dstack task -y\ncommands:\n  - x\n"


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A shell with the extension, which is taken out again."""
    shell = start_ipython() or InteractiveShell.instance()
    dstack_jupyter.load_ipython_extension(shell)
    yield shell
    dstack_jupyter.unload_ipython_extension(shell)


def complete(shell: InteractiveShell, text: str) -> list[str]:
    """Return all that Tab at the end of *text* offers."""
    with provisionalcompleter():
        return [one.text for one in shell.Completer.completions(text, len(text))]


def helps(shell: InteractiveShell, text: str) -> dict[str, str]:
    """Return what Tab offers, with what is said beside each."""
    with provisionalcompleter():
        return {one.text: one.type for one in shell.Completer.completions(text, len(text))}


def known(monkeypatch: pytest.MonkeyPatch, kind: Names, *names: str) -> None:
    """Let the engine know *names*."""
    monkeypatch.setattr(kind, "fetch", lambda: [*names])
    monkeypatch.setattr(kind, "_until", 0.0)


def test_tab_knows_verbs_options_and_values(shell: InteractiveShell) -> None:
    assert complete(shell, "%dstack of") == ["offers"]
    assert complete(shell, "x = %dstack of") == ["offers"]
    assert complete(shell, "%%dstack ta") == ["task"]
    assert complete(shell, "%%dstack task --max-") == ["--max-duration", "--max-price"]
    assert complete(shell, "%dstack engine st") == ["start", "status", "stop"]
    assert complete(shell, "%dstack help pr") == ["prune"]
    assert complete(shell, "%dstack offers --backend lo") == ["local"]
    assert complete(shell, "%dstack offers --gpu nvidia:h20") == ["H200", "H200NVL"]


def test_in_a_terminal_verbs_options_and_keys_come_with_a_line_of_help(
    shell: InteractiveShell,
) -> None:
    assert helps(shell, "%dstack pu") == {"pull": "Copy files of a run to this computer"}
    assert helps(shell, "%%dstack task --dry") == {"--dry-run": "show the plan"}
    assert helps(shell, TASK + "reso") == {"resources:": "What the machine must have"}


@pytest.mark.parametrize(
    ("body", "offered"),
    [
        ("comm", ["commands:"]),
        ("resources:\n  gp", ["gpu:"]),
        ("resources:\n  gpu:\n    ven", ["vendor:"]),
        ("resources: {gp", ["gpu:"]),
        ("resources: {cpu: 4, gpu: {ven", ["vendor:"]),
        ("resources: {gpu: A1000:2, gp", ["gpu:"]),
        ("resources:\n  gpu: RTX30", ["RTX3090"]),
        ("resources:\n  gpu: nvidia:RTX30", ["RTX3090"]),
        ("resources:\n  gpu:\n    name: [A100, RTX30", ["RTX3090"]),
        ("resources:\n  gpu:\n    name:\n      - RTX30", ["RTX3090"]),
        ("resources:\n  gpu: am", ["amd"]),
        ("spot_policy: on", ["on-demand"]),
        ("spot_policy: 'on", ["on-demand"]),
        ("privileged: t", ["true"]),
        ("backends: [aws, loc", ["local"]),
        ("backends:\n  - loc", ["local"]),
        ("retry:\n  on_events:\n  - int", ["interruption"]),
        ("retry:\n  on_events: [error]\n  dur", ["duration:"]),
        ("# resources\n\nenv:\n  - A=1\npyth", ["python:"]),
        ("python: 3.1", ["3.10", "3.11", "3.12", "3.13"]),
    ],
)
def test_tab_knows_the_keys_and_values_of_the_body(
    shell: InteractiveShell, body: str, offered: list[str]
) -> None:
    assert complete(shell, TASK + body) == offered


def test_tab_knows_the_keys_of_what_stands_in_lists(shell: InteractiveShell) -> None:
    probes = "%%dstack service\nport: 80\nprobes:\n  - "
    assert complete(shell, probes + "ur") == ["url:"]
    assert complete(shell, probes + "url: /\n    metho") == ["method:"]
    assert complete(shell, probes + "url: /\n  - unt") == ["until_ready:"]


@pytest.mark.parametrize(
    "body",
    [
        "commands:\n  - echo im",
        "commands:\n  - |\n    im",
        "commands:\n  - |\n    for x in y:\n      gp",
        "commands:\n  - >-\n    res",
        "# res",
        "image: py",
        "nokey:\n  im",
        "name: a\n  im",
        "resources:\n  gpu: A100 # am",
    ],
)
def test_where_text_stands_nothing_is_offered_nor_pythons_names(
    shell: InteractiveShell, body: str
) -> None:
    assert complete(shell, TASK + body) == []


def test_commands_are_offered_the_files_of_the_project(
    shell: InteractiveShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    for name in ("impressive.py", ".imhidden", "deep/image.py"):
        (tmp_path / name).touch()
    assert complete(shell, TASK + "commands:\n  - python im") == ["impressive.py"]
    assert complete(shell, TASK + "commands:\n  - |\n    python im") == ["impressive.py"]
    assert complete(shell, TASK + "commands: [python de") == ["deep/"]
    assert complete(shell, TASK + "commands:\n  - python deep/i") == ["deep/image.py"]
    assert complete(shell, TASK + "commands:\n  - cat ../") == []
    assert complete(shell, TASK + "commands:\n  - cat /et") == []
    assert complete(shell, TASK + "image: im") == []
    assert complete(shell, "%dstack validate im") == ["impressive.py"]


@pytest.mark.parametrize(
    "line", ["%dstack im", "%%dstack task --name im", "%dstack run . im", "%dstack offers im"]
)
def test_where_a_word_is_the_authors_own_nothing_is_offered(
    shell: InteractiveShell, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert complete(shell, line) == []


@pytest.mark.parametrize("cell", ["im", "%%time\nim", "x = '%%dstack task'\nim", "# %%dstack\nim"])
def test_other_cells_are_left_alone(shell: InteractiveShell, cell: str) -> None:
    before = complete(shell, cell)
    dstack_jupyter.unload_ipython_extension(shell)
    assert complete(shell, cell) == before
    assert "import" in before


def test_tab_knows_runs_models_and_regions(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, known_names.RUNS, "wet-fox-1", "train")
    known(monkeypatch, known_names.MODELS, "tiny", "llama")
    known(monkeypatch, known_names.REGIONS, "eu-west-1", "local")
    for verb in ("logs", "stop other", "attach", "exec", "pull"):
        assert complete(shell, f"%dstack {verb} tr") == ["train"], verb
    assert complete(shell, "%dstack chat ti") == ["tiny"]
    assert complete(shell, "%%dstack chat ll") == ["llama"]
    assert complete(shell, "%dstack offers --region eu") == ["eu-west-1"]
    assert complete(shell, TASK + "regions: [eu") == ["eu-west-1"]


def test_tab_knows_fleets_and_their_machines(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, known_names.FLEETS, "lab", "den")
    known(monkeypatch, known_names.HOSTS, "10.0.0.5")
    assert complete(shell, "%%dstack task --fleet la") == ["lab"]
    assert complete(shell, TASK + "fleets: [la") == ["lab"]
    assert complete(shell, "%dstack fleet ex") == ["examine"]
    assert complete(shell, "%dstack fleet show l") == ["lab"]
    assert complete(shell, "%dstack fleet trust lab 1") == ["10.0.0.5"]
    assert complete(shell, "%dstack pool add") == ["add-ssh"]
    assert complete(shell, "%%dstack fle") == ["fleet"]
    assert complete(shell, "%%dstack fleet\nssh") == ["ssh_config:"]
    assert complete(shell, "%%dstack fleet\nssh_config:\n  hosts:\n    - hostn") == ["hostname:"]


def test_tab_knows_the_options_of_chat_and_nothing_of_its_question(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, known_names.MODELS, "tiny", "llama")
    assert complete(shell, "%%dstack cha") == ["chat"]
    assert complete(shell, "%%dstack chat tiny --sys") == ["--system"]
    assert complete(shell, "%%dstack chat tiny\nWhat is an im") == []
    assert complete(shell, "%dstack logs web --rep") == ["--replica"]


def test_tab_knows_the_profiles_of_the_project_and_sees_them_change(
    shell: InteractiveShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "nobody")
    assert complete(shell, "%%dstack task --profile chea") == []
    file = tmp_path / ".dstack" / "profiles.yml"
    file.parent.mkdir()
    file.write_text("profiles:\n  - name: cheap\n    max_price: 1\n")
    assert complete(shell, "%%dstack task --profile chea") == ["cheap"]
    file.write_text("profiles:\n  - name: cheapest\n    max_price: 0.1\n")
    assert complete(shell, "%%dstack task --profile chea") == ["cheapest"]


def test_names_that_are_slow_to_come_are_not_waited_for() -> None:
    come, fetched = threading.Event(), threading.Event()

    def fetch() -> list[str]:
        come.wait(PATIENCE)
        fetched.set()
        return ["late"]

    names = Names(fetch)
    assert list(names.recall()) == []
    thread = names._fetching
    come.set()
    assert fetched.wait(PATIENCE)
    assert thread is not None
    thread.join(PATIENCE)
    assert names.recall() == ["late"]


def test_without_an_engine_there_are_no_names() -> None:
    def fetch() -> list[str]:
        raise EngineDown("no engine runs")

    assert list(Names(fetch).recall()) == []


def ask(notebook: Notebook, kind: str, code: str, cursor: int | None = None) -> dict[str, Any]:
    """Return the kernel's answer to a `complete` or `inspect` of *code*."""
    reply: dict[str, Any] = getattr(notebook.client, kind)(
        code, len(code) if cursor is None else cursor, reply=True, timeout=PATIENCE
    )
    return dict(reply["content"])


def test_a_kernel_offers_keys_and_says_what_the_one_chosen_means(notebook: Notebook) -> None:
    content = ask(notebook, "complete", TASK + "resources:\n  gp")
    assert content["matches"] == ["gpu:"]
    assert content["cursor_start"] == len(TASK + "resources:\n  ")
    found = content["metadata"]["_jupyter_types_experimental"]
    assert [(one["text"], one["type"]) for one in found] == [("gpu:", "property")]
    chosen = ask(notebook, "inspect", TASK + "resources:\n  gpu:")
    assert "GPUs; none if left out." in chosen["data"]["text/plain"]


CELL = """%%dstack task --name train -y
commands:
  - echo hello
  - |
    echo gpu: none
resources: {cpu: 4, gpu: A100}
env:
  TOKEN: x
priority: 3
"""


def test_shift_tab_on_a_key_tells_what_it_means(notebook: Notebook) -> None:
    def told(word: str, more: int = 1) -> str:
        content = ask(notebook, "inspect", CELL, CELL.index(word) + more)
        assert content["found"]
        return str(content["data"]["text/plain"])

    assert told("resources").startswith("resources  (key of a task)\nWhat the machine must have.")
    assert "value:    GPUs: A100, 24GB" in told("gpu: A100")
    assert told("A100}").startswith("resources.gpu")
    assert told("cpu").startswith("resources.cpu")
    assert "value:    number from 0 to 100" in told("priority", 0)
    assert told("echo hello").startswith("commands")
    assert told("echo gpu", 6).startswith("commands")
    assert told("TOKEN").startswith("env")
    assert told("--name").startswith("--name\nname of the run")
    assert told("task").startswith("usage: %%dstack task")


def test_what_it_means_comes_as_markdown_too(notebook: Notebook) -> None:
    data = ask(notebook, "inspect", CELL, CELL.index("gpu: A100"))["data"]
    assert data["text/markdown"].startswith("**`resources.gpu`** – GPUs; none if left out.")
    assert "* `count`: How many GPUs" in data["text/markdown"]


def test_other_cells_and_a_kernel_without_the_extension_inspect_as_before(
    notebook: Notebook,
) -> None:
    assert "Print" in ask(notebook, "inspect", "print")["data"]["text/plain"].title()
    assert ask(notebook, "inspect", "nothing_of_that_name")["found"] is False
    notebook.run("%load_ext dstack_jupyter")
    notebook.run("%reload_ext dstack_jupyter")
    assert ask(notebook, "inspect", CELL, CELL.index("resources"))["found"]
    notebook.run("%unload_ext dstack_jupyter")
    assert ask(notebook, "inspect", CELL, CELL.index("resources"))["found"] is False
    kept = notebook.run("print('do_inspect' in vars(get_ipython().kernel))")
    assert kept.stdout == "False\n"


def test_a_question_mark_behind_a_key_shows_its_help_and_starts_nothing(
    notebook: Notebook,
) -> None:
    cell = notebook.run("%%dstack task -y\ncommands: [nvidia-smi]\nresources:\n  gpu?\n")
    assert cell.status == "ok", cell.error_text
    assert cell.stdout.startswith("resources.gpu  (key of a task)\nGPUs; none if left out.")
    assert "number from 0 to 100" in notebook.run("%dstack help priority").stdout
    assert notebook.run("%dstack help task.resources.gpu").stdout == cell.stdout


def test_a_question_in_a_command_is_no_question_to_us(notebook: Notebook) -> None:
    source = "%%dstack task --dry-run\ncommands:\n  - |\n    gpu?\n  - commands?\nnamee: x\n"
    assert "namee" in notebook.run(source).error_text
