"""The engine's process: takes the home's lock, opens everything, serves until told to stop.

`python -m dstack_engine serve` calls it; `launcher` starts that. SIGTERM and Ctrl-C end it
gracefully; whatever ends it, runs go on.
"""

from __future__ import annotations

import gc
import logging
import logging.handlers
import os
import secrets
import socket
import threading
from collections.abc import Iterator

import uvicorn

from dstack_engine import __version__
from dstack_engine.address import EngineAddress, publish, take_lock
from dstack_engine.api import create_app
from dstack_engine.backends.local import LocalBackend
from dstack_engine.backends.registry import Registry
from dstack_engine.backends.ssh import SshBackend
from dstack_engine.engine import Engine
from dstack_engine.files.blobs import BlobStore
from dstack_engine.files.manifest import FileLimits
from dstack_engine.gateway.link import GatewayLink
from dstack_engine.home import Home
from dstack_engine.hosts.base import Examines, Host
from dstack_engine.hosts.docker import DockerHost
from dstack_engine.hosts.ports import is_taken, lowest_port
from dstack_engine.hosts.process import ProcessHost
from dstack_engine.hosts.remote import RemoteMachines
from dstack_engine.housekeeping import Housekeeping
from dstack_engine.live import Live
from dstack_engine.reconcilers.loop import Checkpoint, Clock, Loop, no_checkpoint, utc_now
from dstack_engine.reconcilers.usage import UsageSampler
from dstack_engine.reconcilers.wakes import WakeListener
from dstack_engine.reconcilers.world import Gateway, World
from dstack_engine.records.findings import Finding
from dstack_engine.records.offers import HostKind
from dstack_engine.records.updates import PROTOCOL
from dstack_engine.settings import load_settings
from dstack_engine.store.store import Store

logger = logging.getLogger(__name__)

#: The engine's own log is cut at this size (bytes), and one older one is kept.
LOG_SIZE = 5 << 20


def serve(home: Home, *, checkpoint: Checkpoint = no_checkpoint, clock: Clock = utc_now) -> int:
    """Be the home's engine until stopped; return the exit status (0 also if one lives already)."""
    os.umask(0o077)  # the database's, the log's and every other file is the user's alone
    home.make()
    lock = take_lock(home)
    if lock is None:
        return 0
    home.engine_file.unlink(missing_ok=True)
    _log_to(home)
    try:
        _serve(open_world(home, checkpoint, clock))
    except Exception:
        logger.exception("The engine could not go on.")
        raise
    finally:
        home.engine_file.unlink(missing_ok=True)
        lock.close()
    return 0


def _serve(world: World) -> None:
    home = world.home
    engine = Engine(world)
    housekeeping = Housekeeping(engine, lambda: _look_at_hosts(world))
    sampler = UsageSampler(world)
    world.loops["reaper"] = Loop("reaper", housekeeping.reap, lambda: ["all"], workers=1)
    world.loops["usage"] = Loop("usage", sampler.tick, sampler.keys, workers=1)
    listener = _listen_socket(world.settings.port)
    token = secrets.token_urlsafe(32)
    server = uvicorn.Server(
        uvicorn.Config("", log_config=None, access_log=False, timeout_graceful_shutdown=1)
    )

    def shut_down() -> None:
        server.should_exit = True

    server.config.app = create_app(engine, housekeeping, token=token, shut_down=shut_down)
    wakes = WakeListener(home.root / "wake.sock", lambda _ring: world.live.ring())
    wakes.start()
    engine.start()
    # A machine's GPUs are looked at once; not while the first user waits.
    threading.Thread(target=world.list_offers, name="first look", daemon=True).start()
    port = listener.getsockname()[1]
    publish(home, EngineAddress(port, token, os.getpid(), __version__, PROTOCOL))
    gc.freeze()  # modules and schemas stay; the collector need not look at them ever again
    gc.enable()
    logger.info("The engine %s listens on 127.0.0.1:%d.", __version__, port)
    try:
        server.run(sockets=[listener])
    finally:
        engine.stop()
        wakes.close()
        world.store.close()
        logger.info("The engine has ended; its runs go on.")


def open_world(home: Home, checkpoint: Checkpoint, clock: Clock = utc_now) -> World:
    """Open the store and the hands of *home*."""
    settings = load_settings(home)
    live = Live()
    docker = DockerHost(
        settings.local.docker_host or os.environ.get("DOCKER_HOST"),
        log_cap=settings.log_limit_bytes,
        on_output=live.ring,
        default_images=[settings.default_image.replace("{version}", settings.own_python)],
    )
    process = ProcessHost(home, log_cap=settings.log_limit_bytes)
    hosts: dict[HostKind, Host] = {HostKind.PROCESS: process}
    if settings.local.docker:
        hosts[HostKind.DOCKER] = docker
    local = LocalBackend(
        docker_reachable=lambda: settings.local.docker and docker.reachable(),
        docker_gives_gpus=docker.gives_gpus,
        folder=home.root,
    )
    store = Store(home.database)
    ssh = SshBackend(lambda: (kept.record for kept in store.instances(finished=False)))
    gateway = GatewayLink(
        home,
        port=settings.gateway.port,
        processes=settings.gateway.processes,
        on_report=lambda report: world.heed(report),
        on_change=live.ring,
    )
    world = World(
        home=home,
        settings=settings,
        store=store,
        live=live,
        blobs=BlobStore(home, FileLimits(settings.max_files, settings.files_limit_bytes)),
        hosts=hosts,
        machines=RemoteMachines(home, log_cap=settings.log_limit_bytes, on_output=live.ring),
        backends=Registry([local, ssh]),
        gateway=gateway,
        port_taken=is_taken,
        lowest_port=lowest_port(),
        clock=clock,
        checkpoint=checkpoint,
    )
    return world


def _look_at_hosts(world: World) -> Iterator[Finding]:
    for host in world.hosts.values():
        if isinstance(host, Examines):
            yield from host.doctor()
    yield _look_at_gateway(world.gateway)


def _look_at_gateway(gateway: Gateway) -> Finding:
    if gateway.port is not None:
        return Finding(True, "gateway", f"listens on http://127.0.0.1:{gateway.port}")
    if gateway.trouble is not None:
        fix = "Another `gateway: {port: …}` in config.yml, perhaps; its log is in `gateway/`."
        return Finding(False, "gateway", gateway.trouble, fix)
    return Finding(True, "gateway", "does not run: it is started with the first service")


def _listen_socket(port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only for sockets that say they are TCP; with it, every
    # answer would wait 40 ms for the client's acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)
    return listener


def _log_to(home: Home) -> None:
    os.close(os.open(home.engine_log, os.O_CREAT | os.O_APPEND, 0o600))
    handler = logging.handlers.RotatingFileHandler(
        home.engine_log, maxBytes=LOG_SIZE, backupCount=1
    )
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
