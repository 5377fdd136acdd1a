"""The ground that other tests stand on holds: engines, images and registries are what they say."""

from __future__ import annotations

import httpx
import pytest
from docker.errors import APIError, ImageNotFound

from tests.hosts import images
from tests.hosts.engines import Engine, wait_for
from tests.hosts.fixtures import MakeDockerd
from tests.hosts.registries import Registry

pytestmark = pytest.mark.docker


def test_the_python_image_runs_what_tasks_are_made_of(
    docker_engine: Engine, python_image: str
) -> None:
    script = """
        for tool in bash sh sleep seq cat ls tar python3; do command -v $tool >&2 || exit 9; done
        python -c 'import http.server, ssl, sys; print(*sys.version_info[:2], sep=".")'
    """
    said = docker_engine.client.containers.run(
        python_image, ["bash", "-c", script], remove=True, network_mode="none"
    )
    assert said.decode().strip() == python_image.partition(":")[2]


def test_the_busybox_image_has_sh_but_no_bash(docker_engine: Engine, busybox_image: str) -> None:
    said = docker_engine.client.containers.run(
        busybox_image, ["sh", "-c", "command -v bash || echo only sh"], remove=True
    )
    assert said == b"only sh\n"


def test_a_private_engine_knows_nothing_of_the_machines_engine(
    docker_engine: Engine, python_image: str, private_dockerd: MakeDockerd
) -> None:
    private = private_dockerd(disk_mb=128)
    roots = [engine.client.info()["DockerRootDir"] for engine in (private, docker_engine)]
    assert roots[0] != roots[1]
    with pytest.raises(ImageNotFound):
        private.client.images.get(python_image)


def test_a_private_engine_publishes_ports_on_loopback(
    busybox_image: str, private_dockerd: MakeDockerd
) -> None:
    private = private_dockerd(disk_mb=64)
    container = private.client.containers.run(
        busybox_image,
        ["httpd", "-f", "-p", "80", "-h", "/etc"],
        ports={"80/tcp": ("127.0.0.1", None)},
        detach=True,
    )
    container.reload()
    port = container.ports["80/tcp"][0]["HostPort"]

    def answers() -> bool:
        try:
            page = httpx.get(f"http://127.0.0.1:{port}/passwd", trust_env=False)
        except httpx.TransportError:
            return False
        return "root:" in page.text

    wait_for(answers, "the published port", 20)


def test_a_restarted_private_engine_remembers_its_containers(
    busybox_image: str, private_dockerd: MakeDockerd
) -> None:
    private = private_dockerd(disk_mb=64)
    container = private.client.containers.run(
        busybox_image, ["sleep", "1000"], detach=True, stop_signal="SIGKILL"
    )
    private.restart()
    container.reload()
    assert container.status == "exited"


def test_a_killed_engine_with_live_restore_finds_its_containers_running(
    busybox_image: str, private_dockerd: MakeDockerd
) -> None:
    private = private_dockerd(disk_mb=64, live_restore=True)
    container = private.client.containers.run(busybox_image, ["sleep", "1000"], detach=True)
    private.kill()
    assert not private.engine.answers()
    private.start()
    container.reload()
    assert container.status == "running"


def test_a_private_engines_disk_can_be_full_and_free_again(
    busybox_image: str, private_dockerd: MakeDockerd
) -> None:
    private = private_dockerd(disk_mb=64)
    private.fill_disk()
    with pytest.raises(APIError, match="no space left"):
        private.client.containers.create(busybox_image, ["true"])
    private.free_disk()
    assert private.client.containers.create(busybox_image, ["true"]).status == "created"


def test_the_registry_gives_its_image_for_the_right_password_only(
    docker_engine: Engine, busybox_image: str, registry: Registry
) -> None:
    name = registry.push(docker_engine.client, busybox_image, "private/busybox:1")
    for wrong in (None, {"username": "reader", "password": "wrong"}):
        with pytest.raises(APIError, match=r"no basic auth|unauthorized|authentication required"):
            docker_engine.client.images.pull(name, auth_config=wrong)
    docker_engine.client.images.pull(name, auth_config=registry.auth)
    docker_engine.client.images.remove(name)


def test_a_pull_from_the_open_registry_tells_its_progress(
    docker_engine: Engine, private_dockerd: MakeDockerd, open_registry: Registry
) -> None:
    client = docker_engine.client
    images.random_image(client, "dstack-test/random:24", 24)
    name = open_registry.push(client, "dstack-test/random:24", "random:24")
    client.images.remove("dstack-test/random:24")
    private = private_dockerd(disk_mb=256)
    steps = list(private.client.api.pull(name, stream=True, decode=True))
    assert any(step.get("progressDetail", {}).get("total", 0) > 20 << 20 for step in steps)
    assert private.client.images.get(name)
