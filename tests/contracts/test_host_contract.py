"""What every host promises: the same stories for processes, Docker and the fake."""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from dstack_engine.errors import ContainerFailed, NotFound, PortTaken
from dstack_engine.home import Home
from dstack_engine.hosts.base import ExecResult, Limits
from dstack_engine.hosts.logs import LogReader
from dstack_engine.records.events import Stream
from dstack_engine.records.routes import Route
from dstack_engine.records.sightings import Container, Sighting
from tests.contracts.hosts import (
    GRACE,
    FolderFiles,
    Ground,
    bed_host,
    docker_host,
    eventually,
    fake_host,
    process_host,
    ssh_host,
    untar,
)

REAL = [
    process_host,
    pytest.param(docker_host, marks=pytest.mark.docker),
    pytest.param(ssh_host, marks=[pytest.mark.docker, pytest.mark.slow]),
    pytest.param(bed_host, marks=pytest.mark.soak),
]


@pytest.fixture(params=[*REAL, fake_host])
def ground(request: pytest.FixtureRequest, home: Path) -> Iterator[Ground]:
    """A host that understands a few words at least."""
    ground: Ground = request.param(request, Home(home))
    yield ground
    ground.tear_down()


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, home: Path) -> Iterator[Ground]:
    """A host that really runs commands."""
    ground: Ground = request.param(request, Home(home))
    yield ground
    ground.tear_down()


# What was printed


def test_output_is_split_by_stream(ground: Ground) -> None:
    ended = ground.run("echo one\necho two >&2\necho three\n")

    assert (ended.stdout, ended.stderr) == (b"one\nthree\n", b"two\n")


def test_output_of_one_stream_keeps_its_order(real: Ground) -> None:
    ended = real.run("seq 1 20000\n")

    assert ended.stdout == b"".join(b"%d\n" % n for n in range(1, 20001))


def test_binary_output_and_a_line_that_never_ends_arrive_as_they_are(real: Ground) -> None:
    script = (
        "head -c 3000000 /dev/zero | tr '\\0' '\\377'; printf '\\000\\001\\r\\x1b[31m no newline'"
    )

    ended = real.run(script)

    assert ended.stdout == b"\xff" * 3_000_000 + b"\x00\x01\r\x1b[31m no newline"


def test_output_comes_while_the_command_runs(ground: Ground) -> None:
    name = ground.start("echo ready\nsleep 60\n")
    ground.follow(name)

    ground.wait_for_output(name, b"ready\n")

    assert ground.host.look(name).container is Container.UP


def test_a_line_is_seen_while_it_grows(real: Ground) -> None:
    wait = "while [ ! -e go$i ]; do sleep 0.01; done"
    script = f"for i in 1 2 3 4; do printf '\\r%s0%%' $i; {wait}; done; printf ' done\\n'\n"
    name = real.start(script)
    real.follow(name)

    for step in (1, 2, 3, 4):
        real.wait_for_output(name, b"\r%d0%%" % step)
        real.host.execute(name, ["touch", f"go{step}"], lambda *_: None)

    assert real.wait(name).stdout == b"\r10%\r20%\r30%\r40% done\n"


def test_after_an_engine_restart_output_goes_on_with_neither_gap_nor_repeat(real: Ground) -> None:
    name = real.start("for i in $(seq 1 200); do echo $i; sleep 0.01; done\n")
    for _ in range(4):
        real.follow_and_die(name)

    ended = real.wait(name)

    assert ended.stdout.split() == [b"%d" % n for n in range(1, 201)]


def test_much_output_is_kept_up_to_the_cap_with_a_mark(real: Ground) -> None:
    real.restart_engine(log_cap=1 << 20)
    ended = real.run(
        "echo first; head -c 64000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo last\n"
    )

    assert ended.exit_code == 0
    assert ended.stdout.startswith(b"first\nxxxx")
    assert ended.stdout.endswith(b"xxxx\nlast\n") or ended.stdout.endswith(b"xxxxlast\n")
    assert b"were not kept" in real.output(ended.name, "cut")
    size = sum(p.stat().st_size for p in real.log(ended.name).iterdir())
    assert size < 1.3 * (1 << 20)


# A Docker Engine takes minutes for so many lines, and keeps less of them: see test_docker_host.py.
@pytest.mark.slow
@pytest.mark.parametrize("real", [process_host], indirect=True)
def test_a_gigabyte_of_output_passes_through_little_memory_and_disk(real: Ground) -> None:
    real.restart_engine(log_cap=8 << 20)
    name = real.start("yes 0123456789 | head -c 1000000000; echo; echo last\n")

    ended = real.wait(name, patience=250)

    assert ended.exit_code == 0
    assert ended.stdout.endswith(b"\nlast\n")
    assert LogReader(real.log(ended.name)).end > 1_000_000_000


# How it ended


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_exit_code_is_told(ground: Ground, code: int) -> None:
    seen = ground.run(f"exit {code}\n").sighting

    assert (seen.exit_code, seen.signal, seen.out_of_memory) == (code, None, False)
    assert not seen.interrupted
    assert seen.started_at is not None
    assert seen.finished_at is not None
    # Docker reads the clock of a short container's start a moment after that of its end.
    assert seen.started_at <= seen.finished_at + timedelta(milliseconds=50)


def test_a_signal_is_told_apart_from_an_exit(ground: Ground) -> None:
    seen = ground.run("kill -9 $$\n").sighting

    assert (seen.exit_code, seen.signal, seen.out_of_memory) == (137, 9, False)


def test_too_much_memory_is_told_apart_from_a_signal(real: Ground) -> None:
    hungry = "python3 -c 'x = [bytearray(1 << 20) for _ in range(2000)]'\n"

    seen = real.run(hungry, limits=Limits(memory_gb=0.1)).sighting

    assert seen.out_of_memory
    assert seen.signal is None
    assert seen.exit_code != 0


def test_what_stays_within_its_memory_is_left_alone(real: Ground) -> None:
    script = "python3 -c 'x = bytearray(30 << 20); import time; time.sleep(0.5); print(len(x))'\n"

    ended = real.run(script, limits=Limits(memory_gb=0.2))

    assert (ended.exit_code, ended.stdout) == (0, b"%d\n" % (30 << 20))


# Names


def test_an_unknown_name_is_absent_and_may_be_stopped_and_removed(ground: Ground) -> None:
    assert ground.host.look("t-none") == Sighting(Container.ABSENT)
    ground.host.stop("t-none", GRACE)
    ground.host.remove("t-none")
    ground.host.attend("t-none", ground.log("t-none"))
    assert ground.host.usage("t-none") is None
    with pytest.raises(NotFound):
        ground.host.execute("t-none", ["true"], lambda *_: None)
    with pytest.raises(NotFound):
        list(ground.host.read_files("t-none", "a"))


def test_started_twice_it_runs_once(ground: Ground) -> None:
    spec = ground.spec("echo once\nsleep 60\n")
    ground.start_spec(spec)
    ground.restart_engine()
    ground.start_spec(spec)
    ground.follow(spec.name)

    ground.wait_for_output(spec.name, b"once\n")

    assert ground.host.list_containers(ground.labels) == [spec.name]
    ground.host.stop(spec.name, timedelta(0))
    assert ground.wait(spec.name).stdout == b"once\n"


def test_one_that_has_ended_is_not_started_again(ground: Ground) -> None:
    spec = ground.spec("echo once\nexit 4\n")
    ground.start_spec(spec)
    ground.wait(spec.name)
    ground.start_spec(spec)

    ended = ground.wait(spec.name)

    assert (ended.exit_code, ended.stdout) == (4, b"once\n")


def test_started_by_many_at_once_it_runs_once(real: Ground) -> None:
    spec = real.spec("echo once\nsleep 0.2\n")
    real.host.prepare(spec, lambda *_: None)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: real.host.start(spec, None, real.log(spec.name)), range(4)))

    assert real.wait(spec.name).stdout == b"once\n"


def test_containers_are_listed_by_their_labels(ground: Ground) -> None:
    labels = {**ground.labels, "run": "a"}
    first = ground.start("sleep 60\n", labels=labels)
    second = ground.start("exit 0\n", labels={**ground.labels, "run": "b"})

    assert set(ground.host.list_containers(ground.labels)) == {first, second}
    assert ground.host.list_containers(labels) == [first]


# Stopping


def test_stopping_is_polite_first(ground: Ground) -> None:
    name = ground.start("trap 'echo saved; exit 0' TERM\necho ready\nsleep 60 & wait\n")
    ground.follow(name)
    ground.wait_for_output(name, b"ready\n")

    ground.host.stop(name, GRACE)

    ended = ground.wait(name)
    assert ended.stdout.startswith(b"ready\nsaved")
    assert ended.exit_code == 0


def test_one_that_will_not_hear_is_killed_after_the_grace(real: Ground) -> None:
    name = real.start("trap '' TERM INT\necho ready\nwhile true; do sleep 1; done\n")
    real.follow(name)
    real.wait_for_output(name, b"ready\n")

    real.host.stop(name, timedelta(seconds=0.5))

    seen = real.host.look(name)
    assert (seen.container, seen.exit_code) == (Container.EXITED, 137)
    assert not seen.interrupted


def test_an_abort_does_not_ask(ground: Ground) -> None:
    name = ground.start("trap 'echo saved; exit 0' TERM\necho ready\nsleep 60 & wait\n")
    ground.follow(name)
    ground.wait_for_output(name, b"ready\n")

    ground.host.stop(name, timedelta(0))

    ended = ground.wait(name)
    assert (ended.stdout, ended.exit_code) == (b"ready\n", 137)


def test_a_program_under_the_shell_has_its_grace_too(real: Ground) -> None:
    program = (
        "import signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.5); print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    name = real.start(f"exec python3 -u -c '{program.replace(chr(39), chr(34))}'\n")
    real.follow(name)
    real.wait_for_output(name, b"ready\n")

    real.host.stop(name, GRACE)

    assert real.wait(name).stdout == b"ready\nsaved\n"


def test_after_removing_nothing_is_left(ground: Ground) -> None:
    name = ground.start("sleep 60\n")

    ground.host.remove(name)

    assert ground.host.look(name) == Sighting(Container.ABSENT)
    assert ground.host.list_containers(ground.labels) == []


def alive(mark: str) -> list[int]:
    """Return the processes that have *mark* among their arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


FAMILY = """
apart() {{
  exec python3 -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])' "$@"
}}
sleep {mark}.1 &
(apart sleep {mark}.2 &)
(sleep {mark}.3 & (sleep {mark}.4 & disown) & disown)
(apart env -i sleep {mark}.5 > /dev/null 2>&1 &)
(apart bash -c 'trap "" TERM INT HUP; sleep {mark}.6 & wait' > /dev/null 2>&1 &)
"""


@pytest.mark.parametrize("end", ["exit", "stop", "remove"])
def test_no_descendant_outlives_its_run(real: Ground, end: str) -> None:
    mark = str(500_000 + int.from_bytes(os.urandom(3), "big"))
    tail = "while [ ! -e go ]; do sleep 0.05; done" if end == "exit" else "sleep 600"
    name = real.start(FAMILY.format(mark=mark) + f"\necho ready\n{tail}\n")
    real.follow(name)
    real.wait_for_output(name, b"ready\n")
    eventually(lambda: len(alive(mark)) >= 7, "the whole family lives")

    if end == "exit":
        real.host.execute(name, ["touch", "go"], lambda *_: None)
        real.wait(name)
    elif end == "stop":
        real.host.stop(name, timedelta(seconds=0.5))
    else:
        real.host.remove(name)

    eventually(lambda: alive(mark) == [], "the whole family is dead")


# Files and environment


def test_files_arrive_as_copies_with_their_modes(real: Ground, tmp_path: Path) -> None:
    project = tmp_path / "project"
    files = FolderFiles.of(
        project, {"run.sh": "#!/bin/sh\necho ran $(cat deep/er/x)\n", "deep/er/x": "7"}
    )
    (project / "run.sh").chmod(0o755)
    (project / "link").symlink_to("deep/er/x")

    ended = real.run("./run.sh; cat link; rm run.sh; echo changed > deep/er/x\n", files)

    assert ended.stdout == b"ran 7\n7"
    assert (project / "run.sh").exists()
    assert (project / "deep/er/x").read_text() == "7"


def test_the_working_dir_is_below_the_projects_root(real: Ground, tmp_path: Path) -> None:
    files = FolderFiles.of(tmp_path / "project", {"sub/here": "yes\n"})

    ended = real.run("cat here; basename $PWD\n", files, working_dir="sub")

    assert ended.stdout == b"yes\nsub\n"


def test_values_of_the_environment_arrive_untouched(real: Ground) -> None:
    values = {"A": "two\nlines", "B": 'it\'s "quoted" $HOME `id` \\n', "C": "", "D": "ünï 日本"}

    ended = real.run('printf \'%s|\' "$A" "$B" "$C" "$D"\n', environment=values)

    assert ended.stdout.decode() == "|".join(values.values()) + "|"


def test_a_long_script_is_run_whole(real: Ground) -> None:
    script = "".join(f": {'.' * 70} {n}\n" for n in range(3000)) + "echo end\n"

    assert real.run(script).stdout == b"end\n"


def test_results_are_read_while_it_runs_and_after_it_ended(real: Ground) -> None:
    script = "mkdir -p out/sub; echo 1 > out/a; echo 2 > out/sub/b; ln -s a out/l; echo ready\n"
    name = real.start(script + "while [ ! -e go ]; do sleep 0.05; done; echo 3 > late\n")
    real.follow(name)
    real.wait_for_output(name, b"ready\n")
    expected = {"out": None, "out/a": b"1\n", "out/sub": None, "out/sub/b": b"2\n", "out/l": "a"}

    assert untar(real.host.read_files(name, "out")) == expected
    assert untar(real.host.read_files(name, "out/sub/b")) == {"b": b"2\n"}
    real.host.execute(name, ["touch", "go"], lambda *_: None)
    real.wait(name)
    assert untar(real.host.read_files(name, "./late")) == {"late": b"3\n"}
    with pytest.raises(NotFound):
        list(real.host.read_files(name, "missing"))


# Beside the running command


def test_a_command_is_executed_beside_it(ground: Ground) -> None:
    name = ground.start("sleep 60\n")
    heard: list[tuple[Stream, bytes]] = []

    result = ground.host.execute(
        name,
        ["sh", "-c", "echo out; echo err >&2; exit 5"],
        lambda stream, data: heard.append((stream, data)),
    )

    assert result == ExecResult(5)
    assert b"".join(d for s, d in heard if s is Stream.STDOUT) == b"out\n"
    assert b"".join(d for s, d in heard if s is Stream.STDERR) == b"err\n"


def test_an_executed_command_has_the_jobs_environment_and_folder(
    real: Ground, tmp_path: Path
) -> None:
    files = FolderFiles.of(tmp_path / "project", {"sub/here": "yes"})
    name = real.start("sleep 60\n", files, environment={"A": "b c"}, working_dir="sub")
    heard: list[bytes] = []

    real.host.execute(name, ["sh", "-c", 'cat here; echo "$A"'], lambda _, data: heard.append(data))

    assert b"".join(heard) == b"yesb c\n"


def test_nothing_is_executed_in_one_that_has_ended(ground: Ground) -> None:
    name = ground.run("exit 0\n").name

    with pytest.raises(NotFound):
        ground.host.execute(name, ["true"], lambda *_: None)


def test_a_busy_job_uses_something_and_an_ended_one_nothing(real: Ground) -> None:
    name = real.start("python3 -c 'x = bytearray(40 << 20)\nwhile True: pass'\n")

    def busy() -> bool:
        usage = real.host.usage(name)
        return usage is not None and usage.cpus > 0.1 and 0.03 < usage.memory_gb < 1

    eventually(busy, "usage of a busy job")
    real.host.stop(name, timedelta(0))
    assert real.host.usage(name) is None


@pytest.mark.slow
def test_no_more_cpus_than_the_limit_are_used(real: Ground) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("only one CPU, so nothing to limit")
    spin = "python3 -c 'while True: pass' & "
    name = real.start(f"{spin}{spin}{spin}sleep 60\n", limits=Limits(cpus=1))
    eventually(lambda: real.host.usage(name) is not None, "first sample")
    time.sleep(1)
    real.host.usage(name)
    time.sleep(2)

    usage = real.host.usage(name)

    assert usage is not None
    assert usage.cpus < 1.3


# Ports


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.parametrize("same", [True, False])
def test_a_port_is_reached_by_its_local_number(real: Ground, tmp_path: Path, same: bool) -> None:
    files = FolderFiles.of(tmp_path / "project", {"page": "hello " * 100_000})
    local, behind = free_ports(2)
    behind = local if same else behind
    name = real.start(
        f"exec python3 -m http.server {behind} --bind 0.0.0.0\n",
        files,
        routes=(Route(local, behind),),
    )

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{local}/page", timeout=5) as response:
                return bool(response.read() == b"hello " * 100_000)
        except OSError:
            return False

    eventually(answers, "an answer")
    real.host.remove(name)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", local), timeout=5)


def test_a_local_port_that_is_taken_is_told_by_number(real: Ground) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        spec = real.spec("echo ran\n", routes=(Route(port, free_ports(1)[0]),))

        with pytest.raises(PortTaken, match=re.escape(str(port))):
            real.start_spec(spec)

    real.start_spec(spec)
    assert real.wait(spec.name).stdout == b"ran\n"


# An image's own


@pytest.mark.docker
def test_an_entrypoint_of_the_authors_replaces_the_images(
    request: pytest.FixtureRequest, home: Path
) -> None:
    ground = docker_host(request, Home(home))

    ended = ground.run(None, entrypoint=("echo", "from", "the entrypoint"))

    assert ended.stdout == b"from the entrypoint\n"
    ground.tear_down()


def test_the_process_host_needs_commands(request: pytest.FixtureRequest, home: Path) -> None:
    with pytest.raises(ContainerFailed, match="no image whose command"):
        process_host(request, Home(home)).start(None)
