"""Fixtures of the ground that tests stand on: Docker Engines, images, registries, a browser.

Loaded for all tests by `tests/conftest.py`. All are safe to use from several test workers at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser import chromium
from tests.hosts import images
from tests.hosts.bed import Bed
from tests.hosts.commands import REPOSITORY, NoGround, set_up
from tests.hosts.engines import Engine, PrivateDockerd, machine_engine
from tests.hosts.registries import Registry

MakeDockerd = Callable[..., PrivateDockerd]


@contextmanager
def _needing(what: str) -> Iterator[None]:
    try:
        yield
    except NoGround as error:
        pytest.skip(f"needs {what}: {error}")


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """This machine's Docker Engine, with the test images in it."""
    with _needing("docker"):
        engine = machine_engine()
        images.busybox().ensure(engine.client)
        images.python().ensure(engine.client)
    yield engine
    engine.client.close()


@pytest.fixture(scope="session")
def python_image(docker_engine: Engine) -> str:
    """Name of an image with bash, coreutils and Python; its tag is the Python's version."""
    return images.python().name


@pytest.fixture(scope="session")
def busybox_image(docker_engine: Engine) -> str:
    """Name of an image of 2 MB that has `sh` and no bash."""
    return images.busybox().name


@pytest.fixture(scope="session")
def extra_python() -> Path:
    """An interpreter with torch, transformers and streamlit; see `scripts/setup-extras.sh`."""
    with _needing("the extra packages"):
        set_up("extras")
    return REPOSITORY / ".venv-extras/bin/python"


@pytest.fixture
def private_dockerd(docker_engine: Engine) -> Iterator[MakeDockerd]:
    """Makes Docker Engines that this test may break: ``private_dockerd(disk_mb=64)``.

    Each is started and has the busybox image; all are destroyed when the test ends.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: a private Docker Engine")
    made: list[PrivateDockerd] = []

    def make(*, disk_mb: int = 512, live_restore: bool = False) -> PrivateDockerd:
        made.append(PrivateDockerd(disk_mb=disk_mb, live_restore=live_restore))
        made[-1].start()
        made[-1].load(images.busybox())
        return made[-1]

    yield make
    for dockerd in made:
        dockerd.destroy()


@pytest.fixture(scope="session")
def bed(docker_engine: Engine) -> Iterator[Bed]:
    """Three machines of one's own with sshd and Docker, the busybox image on each.

    After each test that asked for it they are mended and emptied: see `Bed.mend`.
    """
    with _needing("a bed of hosts"):
        bed = Bed(3)
        bed.start()
    try:
        bed.load_image(images.busybox())
        yield bed
    finally:
        bed.close()


@pytest.fixture(scope="session")
def bed_python_image(bed: Bed) -> str:
    """Name of the image with Python, which every host of the bed has then."""
    return bed.load_image(images.python())


@pytest.fixture(autouse=True)
def _bed_is_mended(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the bed to the next test as it was; after all else of this test has ended."""
    yield
    if "bed" in request.fixturenames:
        request.getfixturevalue("bed").mend()


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry that asks for the password of user ``reader``."""
    yield from _running(Registry(username="reader", password="right-password"))


@pytest.fixture(scope="session")
def open_registry() -> Iterator[Registry]:
    """A registry that asks nobody for anything."""
    yield from _running(Registry())


def _running(registry: Registry) -> Iterator[Registry]:
    with _needing("docker-registry"):
        registry.start()
    yield registry
    registry.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser without a window; installed first where it is missing. One in each process."""
    with _needing("a browser"):
        set_up("browser")
    expect.set_options(timeout=chromium.PATIENCE_MS)
    with sync_playwright() as playwright, chromium.launched(playwright) as launched:
        yield launched
