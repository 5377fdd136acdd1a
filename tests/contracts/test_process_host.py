"""What only the process host promises: supervisors, their deaths, interpreters, forwards."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from dstack_engine.errors import ContainerFailed, DiskFull, NotFound, PortTaken, PythonUnavailable
from dstack_engine.home import Home
from dstack_engine.hosts import descendants
from dstack_engine.hosts.base import Limits
from dstack_engine.hosts.interpreters import OWN_VERSION
from dstack_engine.hosts.job_folder import JobFolder
from dstack_engine.hosts.job_removal import remove_folder
from dstack_engine.hosts.process import ProcessHost
from dstack_engine.records.routes import Route
from dstack_engine.records.sightings import Container
from tests.contracts.hosts import GRACE, FolderFiles, Ground, eventually, process_host
from tests.contracts.test_host_contract import alive, free_ports

#: They wait for real processes.
pytestmark = pytest.mark.slow


@pytest.fixture
def ground(request: pytest.FixtureRequest, home: Path) -> Iterator[Ground]:
    ground = process_host(request, Home(home))
    yield ground
    ground.tear_down()


def folder(ground: Ground, name: str) -> JobFolder:
    return JobFolder(ground.home.jobs / name)


def supervisor(ground: Ground, name: str) -> int:
    pid = folder(ground, name).supervisor()
    assert pid is not None
    return pid


def started(ground: Ground, script: str, **changes: object) -> str:
    """Start a script that first says ``ready``, and wait for the word."""
    name = ground.start("echo ready\n" + script, **changes)
    ground.wait_for_output(name, b"ready\n")
    return name


# A supervisor's life


def test_when_its_supervisor_is_killed_the_job_dies_and_is_interrupted(ground: Ground) -> None:
    mark = str(800_000 + os.getpid())
    name = started(ground, f"sleep {mark}.1 & (setsid sleep {mark}.2 &)\nsleep {mark}.3\n")
    eventually(lambda: len(alive(mark)) == 3, "three sleeps")

    os.kill(supervisor(ground, name), signal.SIGKILL)
    ended = ground.wait(name)

    assert (ended.sighting.interrupted, ended.sighting.signal) == (True, 9)
    assert ended.stdout == b"ready\n"
    assert alive(mark) == []
    ground.start_spec(ground.spec("echo again\n", name=name))
    assert ground.wait(name).sighting == ended.sighting


def test_a_supervisor_that_is_asked_to_end_ends_the_job_and_says_so(ground: Ground) -> None:
    name = started(ground, "trap 'echo saved; exit 0' TERM\nsleep 60 & wait\n")

    os.kill(supervisor(ground, name), signal.SIGTERM)

    ended = ground.wait(name)
    assert (ended.stdout, ended.sighting.interrupted) == (b"ready\nsaved\n", True)


def test_a_process_id_that_was_used_again_is_not_taken_for_the_supervisor(ground: Ground) -> None:
    name = started(ground, "sleep 60\n")
    os.kill(supervisor(ground, name), signal.SIGKILL)
    eventually(lambda: folder(ground, name).supervisor() is None, "the supervisor is dead")
    state = folder(ground, name).read("state") or {}
    folder(ground, name).write("state", {**state, "pid": os.getpid()})

    seen = ground.host.look(name)

    assert (seen.container, seen.interrupted) == (Container.EXITED, True)


def test_after_a_reboot_a_job_is_interrupted(ground: Ground) -> None:
    name = started(ground, "sleep 60\n")
    pid = supervisor(ground, name)
    state = folder(ground, name).read("state") or {}
    folder(ground, name).write("state", {**state, "boot": "another"})

    assert ground.host.look(name).interrupted
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("milliseconds", range(0, 60, 10))
def test_an_engine_that_dies_while_starting_leaves_one_job_or_none(
    ground: Ground, milliseconds: int
) -> None:
    spec = ground.spec("echo once\n")
    engine = os.fork()
    if engine == 0:
        try:
            ground.start_spec(spec)
        finally:
            os._exit(0)
    time.sleep(milliseconds / 1000)
    os.kill(engine, signal.SIGKILL)
    os.waitpid(engine, 0)

    ground.restart_engine()
    ground.start_spec(spec)

    assert ground.wait(spec.name).stdout == b"once\n"


def test_a_crash_before_the_supervisor_is_repaired_by_starting_again(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ground.spec("echo once\n")

    def crash(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ProcessHost, "_launch", crash)
        with pytest.raises(KeyboardInterrupt):
            ground.start_spec(spec)

    assert ground.host.look(spec.name).container is Container.CREATED
    ground.start_spec(spec)
    assert ground.wait(spec.name).stdout == b"once\n"


def test_a_stopped_computer_goes_on_where_it_was(ground: Ground) -> None:
    """As when a laptop sleeps: everything stands still, the clock does not."""
    script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done\n"
    name = started(ground, script, limits=Limits(memory_gb=1), max_duration=timedelta(minutes=1))
    pid = supervisor(ground, name)
    family = [pid, *(process.pid for process in descendants.descendants(pid))]
    for one in family:
        descendants.send(one, signal.SIGSTOP)
    time.sleep(0.5)
    for one in reversed(family):
        descendants.send(one, signal.SIGCONT)

    ended = ground.wait(name)

    assert (ended.exit_code, ended.stdout.split()[-1]) == (0, b"8")


def test_a_job_that_stands_still_can_be_stopped(ground: Ground) -> None:
    name = started(ground, "trap 'echo saved; exit 3' TERM\nsleep 60 & wait\n")
    pid = supervisor(ground, name)
    for one in (pid, *(process.pid for process in descendants.descendants(pid))):
        descendants.send(one, signal.SIGSTOP)

    ground.host.stop(name, GRACE)

    assert ground.wait(name).exit_code == 3


def test_the_engine_is_woken_at_the_start_at_output_and_at_the_end(ground: Ground) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        # Through its folder's descriptor, since a socket's path may not be long.
        root = os.open(ground.home.root, os.O_RDONLY)
        ear.bind(f"/proc/self/fd/{root}/wake.sock")
        ear.settimeout(30)
        name = ground.start("sleep 0.1; echo hi\n")
        heard = []
        while not heard or not heard[-1].startswith(b"exit"):
            heard.append(ear.recv(500))
    os.close(root)

    assert heard == [f"{kind} {name}".encode() for kind in ("started", "output", "exit")]


def test_secrets_are_in_no_argument_and_in_no_readable_file(ground: Ground) -> None:
    name = started(ground, "sleep 60\n", environment={"KEY": "s3cr3t-value"})

    assert alive("s3cr3t-value") == []
    place = Path(folder(ground, name).path)
    for path in (p for p in place.iterdir() if p.is_file()):
        assert path.stat().st_mode & 0o077 == 0, path
    ground.host.stop(name, timedelta(0))
    holders = [p for p in place.iterdir() if p.is_file() and b"s3cr3t" in p.read_bytes()]
    assert holders == []


# Limits


def test_what_exceeds_its_max_duration_is_interrupted_and_timed_out(ground: Ground) -> None:
    script = "trap 'echo saved; exit 0' INT\nsleep 60 & wait\n"

    ended = ground.run(script, max_duration=timedelta(seconds=0.4))

    assert ended.sighting.timed_out
    assert ended.stdout == b"saved\n"


def test_an_exit_of_137_is_no_signal(ground: Ground) -> None:
    seen = ground.run("exit 137\n").sighting

    assert (seen.exit_code, seen.signal) == (137, None)


def test_memory_that_is_spread_over_processes_is_counted_together(ground: Ground) -> None:
    eat = "python3 -c 'x = bytearray(60 << 20); import time; time.sleep(60)' & "

    seen = ground.run(f"{eat}{eat}{eat}wait\n", limits=Limits(memory_gb=0.125)).sighting

    assert seen.out_of_memory


@pytest.fixture
def small_disk(home: Path) -> Iterator[Callable[[Path], None]]:
    """Mounts a disk of 8 MB on a folder."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a small disk of its own")
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", folder], check=True)
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_makes_the_job_wait_and_loses_nothing(
    ground: Ground, small_disk: Callable[[Path], None]
) -> None:
    small = ground.home.logs / "small"
    small_disk(small)
    script = "while [ ! -e go ]; do sleep 0.05; done; seq 1 300000; echo > printed\n"
    started(ground, script, name="small")
    _fill_disk(small / "ballast")
    ground.host.execute("small", ["touch", "go"], lambda *_: None)
    time.sleep(1)
    assert not Path(folder(ground, "small").workflow, "printed").exists()
    assert ground.output("small") == b"ready\n"

    (small / "ballast").unlink()

    lines = ground.wait("small").stdout
    assert lines == b"ready\n" + b"".join(b"%d\n" % n for n in range(1, 300_001))


def test_a_job_that_finds_the_disk_full_says_so_and_can_start_later(
    ground: Ground, small_disk: Callable[[Path], None]
) -> None:
    small_disk(ground.home.jobs)
    spec = ground.spec("echo ran\n")
    _fill_disk(ground.home.jobs / ".ballast")
    with pytest.raises(DiskFull):
        ground.start_spec(spec)

    (ground.home.jobs / ".ballast").unlink()

    ground.start_spec(spec)
    assert ground.wait(spec.name).stdout == b"ran\n"


def test_the_end_of_a_job_is_known_though_the_disk_is_full(
    ground: Ground, small_disk: Callable[[Path], None]
) -> None:
    small_disk(ground.home.jobs)
    name = ground.start("touch hold; echo held; while [ -e hold ]; do sleep 0.05; done; exit 5\n")
    ground.wait_for_output(name, b"held\n")
    _fill_disk(ground.home.jobs / ".ballast")
    Path(folder(ground, name).workflow, "hold").unlink()

    assert ground.wait(name).exit_code == 5


def _fill_disk(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.slow
def test_fifty_jobs_at_once_all_end_well(ground: Ground) -> None:
    names: list[str] = []

    def start(number: int) -> None:
        names.append(ground.start(f"echo {number}; sleep 1\n"))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(int(ground.wait(name).stdout) for name in names) == list(range(50))


# Environment and interpreters


def test_only_what_describes_the_computer_passes_from_the_engine(ground: Ground) -> None:
    engine = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "AWS_SECRET_ACCESS_KEY": "x",
        "JPY_PARENT_PID": "1",
        "DSTACK_JUPYTER_HOME": "/x",
        "https_proxy": "http://127.0.0.1:1",
    }
    ground.restart_engine(environ=engine)

    lines = ground.run("env\n").stdout.decode().splitlines()

    names = {line.partition("=")[0] for line in lines}
    assert {"PATH", "LANG", "HOME", "https_proxy", "VIRTUAL_ENV"} <= names
    assert names & {"AWS_SECRET_ACCESS_KEY", "JPY_PARENT_PID", "DSTACK_JUPYTER_HOME"} == set()


def test_assigned_gpus_are_what_the_job_sees(ground: Ground) -> None:
    limits = Limits(gpus=("GPU-a", "GPU-b"))

    ended = ground.run('echo "$CUDA_VISIBLE_DEVICES"\n', limits=limits)

    assert ended.stdout == b"GPU-a,GPU-b\n"


def test_python_is_the_engines_own_with_its_users_packages(ground: Ground) -> None:
    code = "import sys, pydantic; print(*sys.version_info[:2], sys.prefix != sys.base_prefix)"

    ended = ground.run(f'python -c "{code}"\npip --version\n')

    assert ended.stdout.startswith(f"{OWN_VERSION.replace('.', ' ')} True\npip ".encode())
    assert ended.stderr == b""


def a_wheel(folder: Path) -> Path:
    """Make a wheel of a package with one module."""
    path = folder / "tiny_parcel-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        info = "tiny_parcel-1.0.dist-info"
        wheel.writestr("tiny_parcel.py", "WORD = 'installed'\n")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-parcel\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("version", [None, OWN_VERSION])
def test_what_a_job_installs_stays_in_the_job(
    ground: Ground, tmp_path: Path, version: str | None
) -> None:
    wheel = a_wheel(tmp_path)
    script = (
        f"pip install --quiet --no-index --disable-pip-version-check {wheel}\n"
        "python -c 'import tiny_parcel; print(tiny_parcel.WORD)'\n"
    )

    first = ground.run(script, python=version)
    second = ground.run("python -c 'import tiny_parcel'\n", python=version)

    assert (first.exit_code, first.stdout) == (0, b"installed\n"), first.stderr
    assert second.exit_code == 1


def test_a_version_of_python_is_clean(ground: Ground) -> None:
    ended = ground.run("python -c 'import pydantic'\n", python=OWN_VERSION)

    assert b"No module named 'pydantic'" in ended.stderr


def test_another_version_of_python_is_used_where_it_is_installed(
    ground: Ground, tmp_path: Path
) -> None:
    other = next(
        (v for v in ("3.9", "3.10", "3.12", "3.13") if v != OWN_VERSION and _installed(v)), None
    )
    if other is None:
        # A stand-in that answers like it, so that finding and choosing are still tested.
        other, bin_folder = "3.99", tmp_path / "bin"
        bin_folder.mkdir()
        stand_in = bin_folder / "python3.99"
        stand_in.write_text(f'#!/bin/sh\necho {other}; echo "$0"\n')
        stand_in.chmod(0o755)
        ground.restart_engine(environ={"PATH": f"{bin_folder}:{os.environ['PATH']}"})

    ended = ground.run(
        "python -c 'import sys; print(*sys.version_info[:2], sep=\".\")'\n", python=other
    )

    assert ended.stdout.decode().splitlines()[0] == other


def _installed(version: str) -> bool:
    home = Home(Path("/nonexistent"))
    return ProcessHost(home)._interpreters.find(version) is not None


def test_a_version_that_cannot_be_had_is_refused_with_those_that_can(ground: Ground) -> None:
    ground.restart_engine(environ={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"})

    with pytest.raises(PythonUnavailable) as refused:
        ground.start("true\n", python="3.77")

    assert "there is no Python 3.77" in refused.value.render()
    assert OWN_VERSION in refused.value.render()


def test_a_version_that_is_missing_is_fetched_by_uv(ground: Ground, tmp_path: Path) -> None:
    """`uv` is played by a script: the real one would need the network."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    target = tmp_path / "data/uv/python/cpython-3.77.1-linux/bin/python3.77"
    uv.write_text(
        f"#!/bin/sh\necho Downloading $*\nmkdir -p {target.parent}\n"
        f"printf '#!/bin/sh\\necho 3.77; echo {sys.executable}\\n' > {target}\nchmod +x {target}\n"
    )
    uv.chmod(0o755)
    environ = {"PATH": f"{uv.parent}:/usr/bin:/bin", "XDG_DATA_HOME": str(tmp_path / "data")}
    host = ProcessHost(ground.home, environ=environ)
    said: list[str] = []

    host.prepare(ground.spec("true\n", python="3.77"), lambda _step, _far, text: said.append(text))

    assert said == ["uv fetches Python 3.77", "Downloading python install 3.77"]


# Files


def test_only_the_jobs_own_files_can_be_read(ground: Ground) -> None:
    name = ground.run("ln -s /etc out; mkdir in; echo 1 > in/a\n").name

    for path in ("/etc/passwd", "../labels", "out/passwd"):
        with pytest.raises(NotFound, match="outside of the run's files"):
            list(ground.host.read_files(name, path))
    inside = str(Path(folder(ground, name).workflow, "in/a"))
    assert b"".join(ground.host.read_files(name, inside))


def test_a_working_dir_outside_of_the_project_is_refused(ground: Ground) -> None:
    with pytest.raises(ContainerFailed, match="outside of the project"):
        ground.start("true\n", working_dir="../..")


def test_folders_that_forbid_deleting_are_removed_too() -> None:
    """Done as nobody, since root may delete anything."""
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o777)
        job = Path(temporary, "job")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                (job / "a/b").mkdir(parents=True)
                (job / "a/b/c").touch()
                (job / "a/b").chmod(0)
                (job / "a").chmod(0o500)
                remove_folder(job)
                code = len(list(Path(temporary).iterdir()))
            finally:
                os._exit(code)

        assert os.waitpid(child, 0)[1] == 0


def test_a_shell_is_opened_in_the_jobs_environment(ground: Ground, tmp_path: Path) -> None:
    files = FolderFiles.of(tmp_path / "project", {"here": "yes"})
    name = ground.start("sleep 60\n", files, environment={"A": "b c"})
    argv = list(ground.host.shell_command(name))  # type: ignore[attr-defined]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(argv[0], argv)
    os.write(terminal, b'echo "<$A>"; cat here; exit\n')
    said = b""
    try:
        while chunk := os.read(terminal, 4096):
            said += chunk
    except OSError:
        pass  # the terminal's other end was closed
    os.waitpid(pid, 0)

    assert b"<b c>" in said
    assert b"yes" in said


# Ports


def test_a_port_of_the_job_itself_that_is_taken_is_told(ground: Ground) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]

        with pytest.raises(PortTaken, match=str(port)):
            ground.start("true\n", routes=(Route(free_ports(1)[0], port),))


def test_a_forward_streams_both_ways_and_closes_by_halves(ground: Ground) -> None:
    local, behind = free_ports(2)
    server = (
        "import socket\n"
        f"s = socket.create_server(('127.0.0.1', {behind}))\nprint('ready', flush=True)\n"
        "c, _ = s.accept()\nwhole = b''\n"
        "while d := c.recv(65536): whole += d\n"
        "c.sendall(whole[::-1]); c.close()\n"
    )
    name = ground.start(f"python3 - <<'END'\n{server}END\n", routes=(Route(local, behind),))
    ground.wait_for_output(name, b"ready\n")
    sent = os.urandom(3_000_000)

    with socket.create_connection(("127.0.0.1", local), timeout=30) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(65536):
            received += data

    assert received == sent[::-1]


def test_a_forward_whose_job_does_not_listen_hangs_up(ground: Ground) -> None:
    local, behind = free_ports(2)
    started(ground, "sleep 60\n", routes=(Route(local, behind),))

    with socket.create_connection(("127.0.0.1", local), timeout=30) as client:
        assert client.recv(100) == b""
