"""One host of a bed: a machine of one's own with an address, sshd, a Docker Engine and a disk.

Its processes, its network, its name and its disk are its own; its programs are this computer's. It
can lose power, its cable or its mind. What a test does to it is undone by `mend`. Needs root.
"""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import docker
from docker.errors import DockerException

from dstack_engine.records.machines import SshTarget
from tests.hosts.bed_cgroups import Cgroups
from tests.hosts.bed_disk import SCRIPTS, SSHD, Disk, write
from tests.hosts.bed_network import Network, end
from tests.hosts.commands import NoGround, output
from tests.hosts.engines import wait_for

SOCKET = "run/docker.sock"

STOP_DOCKER = """
pid=$(cat /run/docker.pid) || exit 0
kill -$0 $pid
while kill -0 $pid 2>/dev/null; do sleep 0.05; done
rm -f /run/docker.pid
"""
DOCKER = '{{"shutdown-timeout": 3, "exec-opts": ["native.cgroupdriver=cgroupfs"]{more}}}'
NVIDIA = ', "runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}'
GPU_PROGRAMS = ("nvidia-smi", "nvidia-container-runtime-hook", "nvidia-container-runtime")


class BedHost:
    """Host *index* of the bed, whose files lie in *folder*; `start` it first."""

    def __init__(
        self, index: int, network: Network, folder: Path, *, disk_mb: int, shown: Sequence[Path]
    ) -> None:
        self.name = f"h{index}"
        self.address = network.address(index)
        self.identity_file = folder / "id"
        self._index = index
        self._network = network
        self._folder = folder / self.name
        self._disk = Disk(self._folder / "disk", disk_mb)
        self._shown = shown
        self._cgroups = Cgroups(network.namespace(self.name))
        self._holder: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._docker: docker.DockerClient | None = None
        #: What `mend` does, by the fault that it undoes.
        self._undo: dict[str, Callable[[], object]] = {}

    # --- how it is reached --------------------------------------------------------------------

    def target(self, user: str = "root") -> SshTarget:
        """Return how it is reached by SSH, as *user*: ``root``, ``ann`` or ``bob``."""
        return SshTarget(self.address, user=user, identity_file=str(self.identity_file))

    @property
    def running(self) -> bool:
        """Tell whether its power is on and it has not crashed."""
        return self._holder is not None and self._holder.poll() is None

    @property
    def docker(self) -> docker.DockerClient:
        """A client of its Docker Engine that needs no network: a witness."""
        if self._docker is None:
            url = f"unix:///proc/{self._init}/root/{SOCKET}"
            self._docker = docker.DockerClient(base_url=url, timeout=30)
        return self._docker

    def containers(self, *, running: bool = False) -> list[str]:
        """Return the names of its containers, ended ones too unless *running*."""
        found = self.docker.api.containers(all=not running)
        return sorted(container["Names"][0].lstrip("/") for container in found)

    def execute(self, *command: str) -> str:
        """Return what *command* prints, run on it as root, without SSH."""
        return output(["nsenter", "--target", str(self._init), "--all", *command])

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        """Write a file on its disk; *path* is absolute."""
        write(self._root, path, content, mode)

    @property
    def _root(self) -> Path:
        return Path(f"/proc/{self._init}/root") if self.running else self._disk.root

    # --- power --------------------------------------------------------------------------------

    def start(self) -> None:
        """Make its disk and switch it on; returns before it has booted, see `wait_until_up`."""
        self._make_disk()
        self._boot()

    def _make_disk(self) -> None:
        self._disk.make(self.name, self.address, self.identity_file.with_suffix(".pub"))
        (self._folder / "root").mkdir()
        self._set_docker("")
        self.new_host_key()

    def _boot(self) -> None:
        """Start process 1 in fresh namespaces; what holds it waits outside and ends with it."""
        self._network.plug(self.name, self._index)
        self._cgroups.make()
        joined = [str(path) for path in self._cgroups.procs()]
        namespaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--propagation", "private"]
        boot = [str(SCRIPTS / "boot.sh"), self.name, str(self._folder), *map(str, self._shown)]
        network = f"--net=/run/netns/{self._network.namespace(self.name)}"
        unshared = ["nsenter", network, "unshare", *namespaces, "--fork", "--kill-child", *boot]
        join = f'for procs in {" ".join(joined)}; do echo $$ >"$procs"; done; exec "$@"'
        with (self._folder / "console").open("ab") as console:
            self._holder = subprocess.Popen(
                ["sh", "-c", join, "sh", *unshared],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**_environment(), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
                start_new_session=True,
            )
        self._init = 0
        self._docker = None

    def wait_until_up(self) -> BedHost:
        """Return once sshd and the Docker Engine answer."""
        wait_for(self._is_up, f"host {self.name}, which said: {self.console[-500:]}", 60)
        return self

    def _is_up(self) -> bool:
        assert self._holder is not None
        if self._holder.poll() is not None:
            raise NoGround(f"host {self.name} ended: {self.console[-1000:]}")
        if not self._init:
            children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
            self._init = int((children.read_text().split() or ["0"])[0])
            if not self._init:
                return False
            self._cgroups.release(self._holder.pid)
        return self._docker_answers() and self._sshd_answers()

    def _docker_answers(self) -> bool:
        if not Path(f"/proc/{self._init}/root/{SOCKET}").exists():
            return False
        try:
            return bool(self.docker.ping())
        except (DockerException, OSError):
            self._docker = None
            return False

    def _sshd_answers(self) -> bool:
        try:
            with socket.create_connection((self.address, 22), 1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    @property
    def console(self) -> str:
        """What it said while it booted, with its daemons' last words."""
        files = [self._folder / "console", self._disk.root / "var/log/dockerd.log"]
        return "\n".join(f.read_text(errors="replace")[-2000:] for f in files if f.exists())

    def crash(self) -> None:
        """End all its processes at once; its address still answers, with refusals."""
        self._undo["power"] = self.poweron
        self._end()

    def kill(self) -> None:
        """Cut its power: nothing answers at all any more."""
        self._network.cable(self.name, connected=False)
        self.crash()

    def _end(self) -> None:
        self._cgroups.freeze(False)  # a frozen process cannot even be killed
        if self._init:
            end(self._init)
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
        if self._docker is not None:
            self._docker.close()
            self._docker = None

    def poweron(self) -> None:
        """Boot it from the disk that it had, its network as new; returns once it is up."""
        for fault in ("power", "cable", "freeze", "blackhole", "slow", "docker"):
            self._undo.pop(fault, None)
        self._end()
        self._boot()
        self.wait_until_up()

    # --- the network --------------------------------------------------------------------------

    def cut(self) -> None:
        """Pull its cable."""
        self._undo["cable"] = self.heal
        self._network.cable(self.name, connected=False)

    def heal(self) -> None:
        """Put its cable back."""
        self._undo.pop("cable", None)
        self._network.cable(self.name, connected=True)

    def blackhole(self) -> None:
        """Let it lose all that comes from this computer; its neighbours still reach it."""
        self._undo["blackhole"] = self.unblackhole
        self._network.drop(self.name, self._network.own_address, dropped=True)

    def unblackhole(self) -> None:
        """Undo `blackhole`."""
        self._undo.pop("blackhole", None)
        self._network.drop(self.name, self._network.own_address, dropped=False)

    def partition(self, other: BedHost) -> None:
        """Let this host and *other* lose what comes from each other; we reach both."""
        self._undo[f"partition {other.name}"] = lambda: self.unpartition(other)
        self._network.drop(self.name, other.address, dropped=True)
        self._network.drop(other.name, self.address, dropped=True)

    def unpartition(self, other: BedHost) -> None:
        """Undo `partition`."""
        self._undo.pop(f"partition {other.name}", None)
        self._network.drop(self.name, other.address, dropped=False)
        self._network.drop(other.name, self.address, dropped=False)

    def slow(self, rate: str) -> None:
        """Let its cable carry *rate* at most, each way: ``1mbit``."""
        self._undo["slow"] = self.unslow
        self._network.limit(self.name, rate)

    def unslow(self) -> None:
        """Undo `slow`."""
        self._undo.pop("slow", None)
        self._network.limit(self.name, None)

    # --- its mind -----------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop all its processes as they stand: connections are taken, nobody answers."""
        self._undo["freeze"] = self.thaw
        self._cgroups.freeze(True)

    def thaw(self) -> None:
        """Let a frozen host go on."""
        self._undo.pop("freeze", None)
        self._cgroups.freeze(False)

    # --- its Docker Engine, its disk, its sshd, its GPUs ---------------------------------------

    def stop_docker(self, *, kill: bool = False) -> None:
        """End its Docker Engine, and with *kill* without a warning."""
        self._undo["docker"] = self.start_docker
        self.execute("sh", "-c", STOP_DOCKER, "KILL" if kill else "TERM")
        self._docker = None

    def start_docker(self) -> None:
        """Start its Docker Engine; returns once it answers."""
        self._undo.pop("docker", None)
        self._order("docker")
        wait_for(self._docker_answers, f"the Docker Engine of {self.name}: {self.console[-500:]}")

    def restart_docker(self) -> None:
        """Stop and start its Docker Engine, as an upgrade of the package does."""
        self.stop_docker()
        self.start_docker()

    def _order(self, word: str) -> None:
        (self._root / "run/orders").write_text(f"{word}\n")

    def _set_docker(self, more: str) -> None:
        self.write("/etc/docker/daemon.json", DOCKER.format(more=more))

    def fill_disk(self, leave_mb: int = 0) -> None:
        """Leave *leave_mb* of free space on its disk, and not one byte of memory spent for it."""
        self._undo["disk"] = self.free_disk
        self._disk.fill(leave_mb)

    def free_disk(self) -> None:
        """Give back what `fill_disk` took."""
        self._undo.pop("disk", None)
        self._disk.free()

    def new_host_key(self) -> str:
        """Give it another host key, as a reinstalled machine has; return its fingerprint."""
        draft = self._folder / f"key-{uuid.uuid4().hex}"
        output(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(draft)])
        self.write("/etc/bed/host_key", draft.read_text(), 0o600)
        return output(["ssh-keygen", "-l", "-f", f"{draft}.pub"]).split()[1]

    def sshd_says(self, *lines: str) -> None:
        """Put *lines* before its sshd's settings, such as ``AllowTcpForwarding no``.

        Logins that are open stay as they are.
        """
        self._undo["sshd"] = self.sshd_says
        self.write("/etc/bed/sshd_config", "\n".join([*lines, SSHD]))
        self.execute("sh", "-c", "kill $(cat /run/sshd.pid)")
        wait_for(lambda: not self._sshd_answers(), f"the end of the sshd of {self.name}")
        self._order("sshd")
        wait_for(self._sshd_answers, f"the sshd of {self.name}")
        if not lines:
            del self._undo["sshd"]

    def give_gpus(
        self,
        count: int,
        *,
        model: str = "NVIDIA H100 80GB HBM3",
        memory_mib: int = 81559,
        toolkit: bool = True,
    ) -> list[str]:
        """Let `nvidia-smi` tell so many GPUs; return their UUIDs. No device is behind them.

        Without *toolkit* its Docker Engine cannot give them to containers. Restarts that.
        """
        self._undo["gpus"] = self.take_gpus
        uuids = [f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{self.name}-{n}')}" for n in range(count)]
        table = ["index,uuid,name,memory.total,memory.used,memory.free,utilization.gpu"]
        table[0] += ",mig.mode.current,compute_cap,driver_version,temperature.gpu"
        for number, name in enumerate(uuids):
            sizes = f"{memory_mib},4,{memory_mib - 4},0"
            table.append(f"{number},{name},{model},{sizes},Disabled,9.0,550.54.15,31")
        self.write("/etc/bed/gpus", "\n".join(table) + "\n")
        for program in GPU_PROGRAMS if toolkit else GPU_PROGRAMS[:1]:
            self.write(f"/usr/local/bin/{program}", (SCRIPTS / program).read_text(), 0o755)
        self._set_docker(NVIDIA if toolkit else "")
        self.restart_docker()
        return uuids

    def take_gpus(self) -> None:
        """Undo `give_gpus`."""
        self._undo.pop("gpus", None)
        for program in GPU_PROGRAMS:
            (self._root / "usr/local/bin" / program).unlink(missing_ok=True)
        self._set_docker("")
        self.restart_docker()

    # --- after a test -------------------------------------------------------------------------

    def mend(self) -> None:
        """Undo what was done to it, and empty its Docker Engine of all but images."""
        if self._undo.pop("power", None):
            self.poweron()
        while self._undo:
            self._undo.popitem()[1]()  # the last first: nothing can be done to a frozen host
        for container in self.docker.api.containers(all=True):
            self.docker.api.remove_container(container["Id"], force=True, v=True)
        for volume in self.docker.api.volumes()["Volumes"] or ():
            self.docker.api.remove_volume(volume["Name"], force=True)

    def destroy(self) -> None:
        """End it and take away its disk."""
        self._end()
        self._network.unplug(self.name)
        self._cgroups.destroy()
        subprocess.run(
            ["umount", "--lazy", str(self._disk.folder)], capture_output=True, check=False
        )


def _environment() -> dict[str, str]:
    """Return this process's, less what is a test's own: a host outlives the test that began it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DSTACK_")}
