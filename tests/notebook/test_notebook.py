"""Cells in real kernels, with a real engine: what they show, return and leave behind."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from time import monotonic

from dstack_engine.client import Client
from dstack_engine.errors import NotFound
from dstack_engine.home import Home
from dstack_engine.launcher import connect
from dstack_engine.records.runs import RunStatus
from tests.notebook.kernels import PATIENCE, Notebook, kernel

TASK = "%%dstack task --instance-type process"


def await_status(client: Client, name: str, status: RunStatus) -> None:
    """Return when the run *name*, which may not be there yet, has *status*."""
    until = monotonic() + PATIENCE
    tick = threading.Event()
    while monotonic() < until:
        with contextlib.suppress(NotFound):
            if client.run(name).status is status:
                return
        tick.wait(0.05)
    raise TimeoutError(f"{name} did not become {status}")


def test_a_cell_waits_for_its_run_and_keeps_it_in_a_variable(notebook: Notebook) -> None:
    cell = notebook.run(
        f"{TASK} -n greet -y --wait -o run -e WORD=moin\n"
        "commands:\n  - python greet.py\n  - echo $WORD\n  - echo result > out.txt\n"
    )
    assert cell.status == "ok", cell.error_text
    assert "hello from a file\nmoin" in cell.text
    assert "application/vnd.jupyter.widget-view+json" not in cell.views[0], "the card is frozen"
    assert "moin" in cell.html

    value = notebook.run("run is _, run.name, str(run.status), run.exit_code, run.logs()")
    assert value.text == "(True, 'greet', 'done', 0, 'hello from a file\\nmoin\\n')"
    assert (
        notebook.run("run.files['out.txt'], run.cost, run.ports").text == "(b'result\\n', 0.0, {})"
    )
    pulled = notebook.run("%dstack pull greet out.txt results")
    assert "results/out.txt" in pulled.stdout
    assert notebook.run("open('results/out.txt').read()").text == "'result\\n'"


def test_a_failed_run_fails_its_cell_with_the_reason_and_its_last_lines(notebook: Notebook) -> None:
    cell = notebook.run(f"{TASK} -n broken -y --wait\ncommands: [echo so far, exit 3]")
    assert (cell.status, cell.error) == ("error", "RunFailed")
    assert cell.error_text.splitlines() == [
        "RunFailed: broken ended with an error (exit code 3).",
        "  | so far",
        "All it printed: %dstack logs broken",
    ]


def test_mistakes_are_told_in_lines_without_traceback_and_fail_the_cell(notebook: Notebook) -> None:
    wrong = {
        f"{TASK}\ncomands: [x]": ("ConfigurationError", "line 2, column 1: comands", "`commands`"),
        "%%dstack task\ntype: service\nport: 1\ncommands: [x]": ("ConfigurationError", "service"),
        "%%dstack task --nmae x\ncommands: [x]": ("ArgumentError", "did you mean --name?"),
        "%%dstack task --wait\ncommands: [x]": ("ArgumentError", "--wait needs -y"),
        "%%dstack task -n $missing\ncommands: [x]": ("ArgumentError", "no variable 'missing'"),
        "%%dstack task\nenv: [NOT_SET_1, NOT_SET_2]\ncommands: [x]": ("NOT_SET_1, NOT_SET_2",),
        "%dstack logs nobody": ("NotFound", "nobody"),
        "%dstack pz": ("ArgumentError", "did you mean ps?"),
        "%dstack task": ("ArgumentError", "%%dstack task"),
        "%dstack logs 'open": ("ArgumentError", "a quote is left open"),
    }
    for source, words in wrong.items():
        cell = notebook.run(source)
        shown = f"{cell.error}: {cell.error_text}"
        assert cell.status == "error", source
        assert all(word in shown for word in words), (source, shown)
        assert "Traceback" not in shown
        assert "site-packages" not in shown


def test_without_yes_nothing_starts_and_run_all_goes_on(notebook: Notebook) -> None:
    cell = notebook.run(f"{TASK} -n later -o run\ncommands: [echo hi]")
    assert cell.status == "ok", cell.error_text
    assert "application/vnd.jupyter.widget-view+json" in cell.views[0]
    assert "local (process)" in cell.text
    assert notebook.run("run.status").error == "Refused"
    assert "No runs." in notebook.run("%dstack ps -a").text


def test_what_no_offer_fits_is_told_with_every_reason(notebook: Notebook) -> None:
    cell = notebook.run("%%dstack task -y\ncommands: [x]\nresources: {cpu: 4000}")
    assert (cell.status, cell.error) == ("error", "NoOffers")
    assert "asks 4000 CPUs" in cell.text


def test_a_dry_run_shows_the_plan_and_what_cannot_be_made_is_told_why(
    notebook: Notebook,
) -> None:
    dry = notebook.run(f"{TASK} --dry-run\ncommands: [x]")
    assert "1 offer that fits." in dry.text
    environment = notebook.run("%%dstack dev-environment\nide: vscode")
    assert (environment.status, environment.error) == ("error", "Refused")
    assert "this version runs tasks, services and fleets of your own" in environment.error_text
    fleet = notebook.run("%%dstack fleet -n lab\nnodes: 1")
    assert (fleet.status, fleet.error) == ("error", "Refused")
    assert "no cloud backend" in fleet.error_text
    volume = notebook.run("%%dstack volume -n disk\nbackend: aws\nregion: eu\nsize: 1GB")
    assert (volume.status, "well written" in volume.stdout) == ("ok", True)


def test_an_interrupt_detaches_and_another_kernel_finds_the_run_again(
    notebook: Notebook, project: Path
) -> None:
    notebook.run("%dstack engine start")
    name = "long"
    cell, message_id = notebook.start(
        f"{TASK} -n {name} -y --wait\ncommands: [echo begun, sleep 300]"
    )
    client = connect(Home.of_user())
    await_status(client, name, RunStatus.RUNNING)
    notebook.manager.interrupt_kernel()
    notebook.finish(cell, message_id)
    assert (cell.status, cell.error) == ("error", "Detached")
    assert cell.error_text == (
        "Detached: long goes on. See it again: %dstack attach long; stop it: %dstack stop long"
    )
    assert client.run(name).status is RunStatus.RUNNING

    with kernel(project) as other:
        attached = other.run(f"%dstack attach {name}")
        assert "begun" in attached.text
        assert "running" in attached.text
        assert "being stopped" in other.run(f"%dstack stop {name}").stdout
        assert other.run(f"%dstack logs {name} -f").status == "ok"
        assert client.run(name).status is RunStatus.TERMINATED
    client.close()


def test_variables_fill_options_and_never_the_body(notebook: Notebook) -> None:
    notebook.run("name = 'filled'; x = 'never'")
    cell = notebook.run(
        f"{TASK} --name $name -y --wait -- a b\n"
        "commands:\n  - x=body\n  - echo $x {x} ${{ run.args }}\n"
    )
    assert cell.status == "ok", cell.error_text
    assert "filled" in cell.text
    assert "body {x} a b" in cell.text


def test_detach_prints_the_name_and_nothing_else(notebook: Notebook) -> None:
    cell = notebook.run(f"{TASK} -n quiet -y --detach\ncommands: [echo hi]")
    assert (cell.stdout, cell.text) == ("quiet\n", "")


def test_exec_runs_inside_a_run_and_needs_a_command_in_a_notebook(notebook: Notebook) -> None:
    notebook.run(f"{TASK} -n box -y -o run\ncommands: [sleep 300]")
    wait = "while str(run.status) != 'running':\n    pass"
    notebook.run(wait)
    assert notebook.run("%dstack exec box -- cat greet.py").stdout == "print('hello from a file')\n"
    failed = notebook.run("%dstack exec box false")
    assert (failed.error, failed.status) == ("CommandFailed", "error")
    assert "needs a command here" in notebook.run("%dstack exec box").error_text
    assert notebook.run("run.exec('echo $((6 * 7))').stdout").text == "'42\\n'"
    notebook.run("run.stop(abort=True)")
    assert notebook.run("str(run.wait(60))").text == "'terminated'"


def test_help_is_at_every_verb(notebook: Notebook) -> None:
    assert "%%dstack VERB" in notebook.run("%dstack").stdout
    assert "--max-price" in notebook.run("%dstack help task").stdout
    assert "--abort" in notebook.run("%dstack stop --help").stdout


def test_a_choice_in_the_table_starts_the_run_and_the_card_takes_its_place(
    notebook: Notebook,
) -> None:
    cell = notebook.run(f"{TASK} -n chosen -o run\ncommands: [echo picked]")
    assert "1 offer that fits." in cell.text
    click = (
        "import gc\nfrom dstack_jupyter.widgets.offers import OffersView\n"
        "[one for one in gc.get_objects() if isinstance(one, OffersView)][-1].submit()"
    )
    assert notebook.run(click).text == "True"
    assert notebook.run("str(run.wait(60)), run.logs()").text == "('done', 'picked\\n')"
    notebook.run(
        "while not all(card.is_frozen for card in gc.get_objects() if "
        "type(card).__name__ == 'RunCard'): pass"
    )
    notebook.run("import time; time.sleep(0.5)")
    assert len(cell.views) <= 2, "one place, perhaps after that of a progress bar"
    assert "chosen ended by itself" in cell.text
    assert "offer that fits" not in cell.text


def test_a_waiting_cell_outlives_a_crash_of_the_engine(notebook: Notebook) -> None:
    notebook.run("%dstack engine start")
    cell, message_id = notebook.start(
        f"{TASK} -n tough -y --wait\ncommands: [echo before, sleep 3, echo after]"
    )
    with connect(Home.of_user()) as client:
        await_status(client, "tough", RunStatus.RUNNING)
        engine = client.engine().pid
        os.kill(engine, signal.SIGKILL)
        notebook.finish(cell, message_id)
        assert cell.status == "ok", cell.error_text
        assert "before\nafter" in cell.text
        assert client.engine().pid != engine


def test_two_notebooks_share_one_engine_and_see_each_others_runs(
    notebook: Notebook, project: Path
) -> None:
    notebook.run(f"{TASK} -n mine -y --wait\ncommands: [echo hi]")
    with kernel(project) as other:
        assert "mine" in other.run("%dstack ps -a").text
        again = other.run(f"{TASK} -n yours -y --wait\ncommands: [echo hi]")
        assert again.status == "ok", again.error_text
    assert "yours" in notebook.run("%dstack ps -a").text
