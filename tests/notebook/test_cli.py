"""The `dstack-jupyter` program as a shell runs it: output, exit status, questions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = [sys.executable, "-m", "dstack_jupyter.cli"]
ON_PROCESS = ["--instance-type", "process"]


def run(project: Path, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program in *project*, without a terminal."""
    return subprocess.run(
        [*PROGRAM, *words], cwd=project, input=text, capture_output=True, text=True, timeout=90
    )


def test_wrong_words_end_with_status_2_and_a_suggestion(project: Path) -> None:
    for words, said in (
        (["pz"], "did you mean ps?"),
        (["ps", "--al"], "did you mean --all?"),
        (["task"], "apply -f FILE"),
        (["apply", "-f", "greet.py"], "greet.py cannot be a configuration"),
    ):
        ended = run(project, *words)
        assert (ended.returncode, ended.stdout) == (2, ""), ended
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr
        assert "\x1b" not in ended.stderr, "no colours into a pipe"


def test_a_run_is_stayed_with_and_its_end_is_the_exit_status(project: Path) -> None:
    asked = run(project, "apply", "-f", "hello.dstack.yml", *ON_PROCESS)
    assert asked.returncode == 1
    assert "Add -y to go on without a question." in asked.stderr

    good = run(project, "apply", "-f", "hello.dstack.yml", "-y", "-n", "good", *ON_PROCESS)
    assert (good.returncode, good.stdout) == (0, "hello from a file\n"), good.stderr
    assert "good ended by itself with exit code 0." in good.stderr

    bad = "type: task\ncommands: [echo out, echo err >&2, exit 7]\n"
    failed = run(project, "apply", "-f", "-", "-y", "-n", "bad", *ON_PROCESS, text=bad)
    assert (failed.returncode, failed.stdout) == (1, "out\n")
    assert "bad ended with an error (exit code 7)." in failed.stderr

    assert run(project, "logs", "good").stdout == "hello from a file\n"
    listed = run(project, "ps", "-a").stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["NAME", "bad", "good"]
    assert "run good" in " ".join(run(project, "events", "good").stdout.split())
    deleted = run(project, "delete", "bad", "-y")
    assert deleted.stdout == "bad is deleted\n", deleted.stderr
    assert run(project, "logs", "bad").returncode == 1


def test_ctrl_c_detaches_and_the_run_goes_on(project: Path) -> None:
    text = "type: task\ncommands: [echo begun, sleep 300]\n"
    (project / "long.dstack.yml").write_text(text)
    words = ["apply", "-f", "long.dstack.yml", "-y", "-n", "long", *ON_PROCESS]
    with subprocess.Popen(
        [*PROGRAM, *words], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Detached: long goes on." in said
    assert "Traceback" not in said
    assert "running" in run(project, "ps").stdout

    inside = run(project, "exec", "long", "--", "sh", "-c", "echo in; exit 5")
    assert (inside.returncode, inside.stdout) == (5, "in\n")
    assert "long" in run(project, "stop", "long", "-x", "-y").stdout
    assert run(project, "attach", "long").returncode == 0


def test_the_engine_is_started_looked_at_and_stopped(project: Path) -> None:
    assert "No engine runs" in run(project, "engine", "status").stdout
    assert "Engine" in run(project, "engine", "start").stdout
    assert "process" in run(project, "version").stdout
    assert run(project, "engine", "stop").stdout == "The engine is stopped.\n"
    assert "No engine runs" in run(project, "engine", "status").stdout


def test_secrets_are_in_no_process_line(project: Path) -> None:
    environment = {**os.environ, "TOKEN": "swordfish"}
    words = ["apply", "-f", "-", "-y", "-d", "-n", "secret", "-e", "TOKEN", *ON_PROCESS]
    subprocess.run(
        [*PROGRAM, *words],
        cwd=project,
        input="type: task\ncommands: [echo begun, sleep 300]\n",
        text=True,
        env=environment,
        timeout=90,
        check=True,
    )
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"swordfish" in line for line in lines)
    run(project, "stop", "secret", "-x", "-y")


def test_watching_the_list_goes_on_until_ctrl_c(project: Path) -> None:
    run(project, "engine", "start")
    with subprocess.Popen(
        [*PROGRAM, "ps", "-w"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "No runs.\n"
        run(project, "apply", "-f", "hello.dstack.yml", "-y", "-d", "-n", "seen", *ON_PROCESS)
        while "seen" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")


def test_a_run_out_of_time_is_a_failure_and_a_wrong_file_is_named(project: Path) -> None:
    (project / "wrong.dstack.yml").write_text("type: task\ncomands: [x]\n")
    wrong = run(project, "apply", "-f", "wrong.dstack.yml", "-y")
    assert wrong.returncode == 2
    assert "wrong.dstack.yml: line 2, column 1: comands" in wrong.stderr

    text = "type: task\nmax_duration: 1s\ncommands: [echo begun, sleep 300]\n"
    late = run(project, "apply", "-f", "-", "-y", "-n", "late", *ON_PROCESS, text=text)
    assert late.returncode == 1, late.stderr
    assert "max_duration" in late.stderr
