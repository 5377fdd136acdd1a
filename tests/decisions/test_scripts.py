"""What a job runs: tried in real shells, since only they know what a script means."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from dstack_engine.decisions.scripts import (
    Images,
    Node,
    check_script,
    finds_its_port,
    gpu_count,
    image_for,
    job_script,
    registry_login_of,
    script_of,
)
from dstack_engine.errors import Refused
from dstack_engine.records.jobs import Reservation
from dstack_engine.records.offers import HostKind
from dstack_engine.records.routes import Route
from dstack_engine.spec.configurations import ServiceConfiguration
from tests.decisions.samples import T4, a_job, a_run, gpus, here, ours, running, there, wants

IMAGES = Images("python:{version}-slim", "base:py{version}-cuda", "base:py{version}-cuda-devel")


def run(
    commands: list[str], shell: str = "bash", *, setup: list[str] | None = None, more: str = ""
) -> tuple[int, str]:
    """Run the script of *commands*; return its exit code and what it printed."""
    wanted = wants(f"setup: {json.dumps(setup or [])}\n{more}", commands=json.dumps(commands))
    script = script_of(wanted)
    assert script is not None
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout


@pytest.fixture(params=["bash", "sh"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_setup_runs_before_the_commands_in_one_shell(shell: str) -> None:
    assert run(["echo $A", "cd /", "pwd"], shell, setup=["A=1; echo set"]) == (0, "set\n1\n/\n")


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        ("false", 1),
        ("exit 7", 7),
        ("false && true", 1),
        ("sh -c 'exit 3' && echo no", 3),
        ("no-such-command-here", 127),
        ("true\nsh -c 'exit 4'\necho no", 4),
        ("(exit 5)", 5),
        ("f() { return 6; }\nf", 6),
        ("[ -e /no/such/file ]", 1),
        ("! true", 1),
    ],
)
def test_whatever_fails_ends_the_script_with_its_exit_code(
    shell: str, failing: str, code: int
) -> None:
    assert run(["echo first", failing, "echo never"], shell) == (code, "first\n")


@pytest.mark.parametrize(
    "harmless",
    [
        "false || true",
        "if false; then :; fi",
        "# only a comment",
        "",
        "cat <<EOF\ntext\nEOF",
        "echo a \\",
        "true;",
        "for i in 1 2; do :; done",
        "set +e\nfalse\nset -e\ntrue",
    ],
)
def test_what_does_not_fail_lets_it_go_on(shell: str, harmless: str) -> None:
    code, output = run([harmless, "echo last"], shell)
    assert code == 0
    assert output.endswith("last\n")


def test_a_command_in_the_background_does_not_hold_up_the_next(shell: str) -> None:
    code, output = run(["sleep 30 &", "echo next", "kill $!"], shell)
    assert (code, output) == (0, "next\n")


def test_without_errors_its_exit_code_is_zero_and_the_last_failure_counts(shell: str) -> None:
    assert run(["true"], shell)[0] == 0
    assert run(["true", "sh -c 'exit 9'"], shell)[0] == 9


def test_errors_may_be_switched_off_by_the_author(shell: str) -> None:
    assert run(["set +e", "false", "echo on"], shell) == (0, "on\n")


def test_quotes_dollars_and_other_writing_arrive_as_written(shell: str) -> None:
    assert run(["echo \"a 'b' $((1+1)) \\$HOME ü\""], shell) == (0, "a 'b' 2 $HOME ü\n")


def test_another_shell_runs_the_same_script() -> None:
    dash = "/bin/dash"
    if not Path(dash).exists():
        pytest.fail("dash is part of Debian")
    commands = ["echo ${BASH_VERSION:-other}", "false && true", "echo never"]
    assert run(commands, more=f"shell: {dash}") == (1, "other\n")


def test_an_image_alone_runs_its_own_command() -> None:
    assert script_of(wants("image: nginx", commands="")) is None


def test_a_dev_environment_runs_its_init() -> None:
    wanted = wants("init: [echo ready]", type="dev-environment", commands="")
    assert "echo ready" in (script_of(wanted) or "")


# --- images -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("image: alpine", "alpine"),
        ("", "python:3.12-slim"),
        ("python: 3.10", "python:3.10-slim"),
        ("resources: {gpu: 24GB}", "base:py3.12-cuda"),
        ("resources: {gpu: 24GB}\npython: 3.11", "base:py3.11-cuda"),
        ("resources: {gpu: 0}", "python:3.12-slim"),
        ("nvcc: true", "base:py3.12-cuda-devel"),
    ],
)
def test_without_an_image_the_default_one_follows_python_and_gpu(text: str, image: str) -> None:
    assert image_for(wants(text), here(), IMAGES, "3.12") == image


def test_a_plain_process_has_no_image() -> None:
    assert image_for(wants("python: 3.10"), here(HostKind.PROCESS), IMAGES, "3.12") is None


# --- the whole --------------------------------------------------------------------------------


def test_a_job_finds_dstacks_variables() -> None:
    machine = here(gpus=gpus(T4, 2))
    job = running("fox", machine, Reservation(gpus=("GPU-0", "GPU-1")))
    run_of_it = a_run(wants("working_dir: src/"), project="/home/me/my project/")
    assert dict(job_script(run_of_it, job).environment) == {
        "PYTHONUNBUFFERED": "1",
        "DSTACK_RUN_NAME": "fox",
        "DSTACK_RUN_ID": "0123abcd",
        "DSTACK_JOB_ID": "fox-0-0/1",
        "DSTACK_REPO_ID": "my project-123dafdb",
        "DSTACK_REPO_DIR": "/workflow",
        "DSTACK_WORKING_DIR": "/workflow/src",
        "DSTACK_MASTER_NODE_IP": "127.0.0.1",
        "DSTACK_NODE_RANK": "0",
        "DSTACK_NODES_NUM": "1",
        "DSTACK_NODES_IPS": "127.0.0.1",
        "DSTACK_GPUS_PER_NODE": "2",
        "DSTACK_GPUS_NUM": "2",
        "RUN_NAME": "fox",
        "REPO_ID": "my project-123dafdb",
    }


def test_elsewhere_all_gpus_of_the_machine_are_the_jobs() -> None:
    job = running("fox", there(gpus=gpus(T4, 4)))
    environment = job_script(a_run(wants()), job).environment
    assert environment["DSTACK_GPUS_PER_NODE"] == "4"


def test_the_authors_own_variables_win_over_old_names() -> None:
    theirs = {"RUN_NAME": "theirs", "TOKEN": "hush"}
    script = job_script(a_run(wants(), environment=theirs), a_job())
    assert script.environment["RUN_NAME"] == "theirs"
    assert script.environment["DSTACK_RUN_NAME"] == "fox"
    assert "hush" not in repr(script)


def test_everything_else_is_passed_on() -> None:
    wanted = wants(
        "image: alpine\nentrypoint: /bin/sh -c 'a b'\nuser: '1000'\nhome_dir: /home/x\n"
        "privileged: true\nworking_dir: a/../b"
    )
    script = job_script(a_run(wanted), a_job(image="alpine"), repo_dir="/jobs/fox/workflow")
    assert (script.image, script.entrypoint, script.user, script.home_dir, script.privileged) == (
        "alpine",
        ("/bin/sh", "-c", "a b"),
        "1000",
        "/home/x",
        True,
    )
    assert script.working_dir == "b"
    assert script.environment["DSTACK_WORKING_DIR"] == "/jobs/fox/workflow/b"


@pytest.mark.parametrize(
    ("given", "relative"),
    [(".", "."), ("src", "src"), ("/workflow/src", "src"), ("/workflow", "."), ("a//b/", "a/b")],
)
def test_a_working_dir_inside_of_the_project_is_taken(given: str, relative: str) -> None:
    script = job_script(a_run(wants(f"working_dir: {given}")), a_job())
    assert script.working_dir == relative


@pytest.mark.parametrize("given", ["..", "/", "/tmp", "a/../../b", "/workflows"])
def test_a_working_dir_outside_of_the_project_is_refused(given: str) -> None:
    with pytest.raises(Refused, match="is outside of the project"):
        check_script(wants(f"working_dir: {given}"))


def test_an_entrypoint_with_an_open_quote_is_refused() -> None:
    with pytest.raises(Refused, match="cannot be split into words"):
        check_script(wants('entrypoint: "sh -c \'x"'))


LOGIN = "image: x/y\nregistry_auth: {username: fox, password: '${{ env.TOKEN }}'}\nenv: [TOKEN]\n"


def test_a_registrys_password_may_be_a_variable_of_the_run() -> None:
    assert registry_login_of(wants(LOGIN), {"TOKEN": "p w"}) == ("fox", "p w")
    assert registry_login_of(wants(""), {}) is None


def test_a_registrys_password_that_names_no_variable_of_the_run_is_refused() -> None:
    with pytest.raises(Refused, match=r"registry_auth names env\.TOKEN, which the run does not"):
        registry_login_of(wants(LOGIN), {"OTHER": "1"})


def test_a_services_program_is_told_at_which_port_to_listen() -> None:
    job = a_job(routes=(Route(21007, 21007),))
    service = a_run(wants("port: 8000", type="service"))
    assert job_script(service, job).environment["DSTACK_SERVICE_PORT"] == "21007"
    assert "DSTACK_SERVICE_PORT" not in job_script(a_run(wants()), job).environment


@pytest.mark.parametrize(
    ("written", "finds"),
    [
        ("port: 80", False),
        ("port: 80\nsetup: [echo $DSTACK_SERVICE_PORT]", True),
        ("port: 80\nenv: {PORT: $DSTACK_SERVICE_PORT}", True),
        ("port: 80\nentrypoint: serve --port $DSTACK_SERVICE_PORT", True),
    ],
)
def test_a_program_that_asks_for_its_port_is_known_by_its_words(written: str, finds: bool) -> None:
    wanted = wants(written, type="service")
    assert isinstance(wanted, ServiceConfiguration)
    assert finds_its_port(wanted) is finds


def test_nodes_are_told_where_the_others_are_and_how_many_gpus_there_are() -> None:
    wanted = wants("nodes: 3")
    job = a_job(node=1, offer=ours("lab-1", gpus=gpus(T4, 4)), reservation=Reservation())
    nodes = [Node("10.0.0.5", 4), Node("10.0.0.6", 2), Node("10.0.0.7", 4)]
    environment = job_script(a_run(wanted), job, nodes=nodes).environment
    assert {
        name: text for name, text in environment.items() if "NODE" in name or "GPU" in name
    } == {
        "DSTACK_MASTER_NODE_IP": "10.0.0.5",
        "DSTACK_NODE_RANK": "1",
        "DSTACK_NODES_NUM": "3",
        "DSTACK_NODES_IPS": "10.0.0.5\n10.0.0.6\n10.0.0.7",
        "DSTACK_GPUS_PER_NODE": "2",
        "DSTACK_GPUS_NUM": "10",
    }


def test_of_a_fleets_machine_only_reserved_gpus_are_counted() -> None:
    machine = ours(gpus=gpus(T4, 4))
    assert gpu_count(running("fox", machine, Reservation(blocks=1))) == 0
    assert gpu_count(running("fox", machine, Reservation(gpus=("GPU-0", "GPU-1")))) == 2
