"""Images that are not there, or behind a password: said in words one can act on; pulls are told."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator

import docker
import pytest

from dstack_engine.records.jobs import JobReason
from dstack_engine.records.runs import RunStatus
from dstack_engine.records.updates import Progressed
from tests.hosts.registries import Registry
from tests.journeys.engines import DOCKER, PROCESS, EngineProcess, task, until

pytestmark = pytest.mark.docker


@pytest.fixture
def ready(engine: EngineProcess, python_image: str) -> EngineProcess:
    engine.settings = [f"default_image: {python_image}"]
    return engine.start()


@pytest.fixture
def private_image(registry: Registry, busybox_image: str) -> Iterator[str]:
    """An image in the registry that asks for a password, and not on this machine."""
    with contextlib.closing(docker.from_env()) as client:
        name = registry.push(client, busybox_image, "journeys/private:1")
        yield name
        with contextlib.suppress(docker.errors.ImageNotFound):
            client.images.remove(name, force=True)


def test_a_wrong_image_fails_the_run_with_the_registrys_reason(
    ready: EngineProcess, open_registry: Registry
) -> None:
    image = f"{open_registry.address}/no/such:1"
    view = ready.submit(f"image: {image}\ncommands: [echo hi]", DOCKER)
    view = ready.until_ended(view.name)
    assert view.status is RunStatus.FAILED
    assert view.job is not None
    assert view.job.reason is JobReason.IMAGE_UNAVAILABLE
    assert image in (view.job.detail or "")
    assert [tried.offer for tried in view.job.tried] == [DOCKER]


def test_an_image_that_is_not_here_is_remarked_before_submitting(
    ready: EngineProcess, open_registry: Registry
) -> None:
    image = f"{open_registry.address}/no/such:1"
    plan = ready.client.plan(task(f"image: {image}\ncommands: [echo hi]"))
    remarks = {offer.id: " ".join(offer.remarks) for offer in plan.offers}
    assert image in remarks[DOCKER]
    assert PROCESS not in remarks


def test_where_the_default_image_cannot_be_pulled_the_next_offer_is_taken(
    engine: EngineProcess, open_registry: Registry, docker_engine: object
) -> None:
    engine.settings = [f"default_image: {open_registry.address}/no/python:3.11"]
    name = engine.start().submit("commands: [echo hi]", None).name
    view = engine.until_ended(name)
    assert view.status is RunStatus.DONE, engine.log_tail()
    assert view.job is not None
    assert view.job.offer is not None
    assert view.job.offer.id == PROCESS
    assert [tried.offer for tried in view.job.tried] == [DOCKER]
    assert "does not exist" in view.job.tried[0].why


@pytest.mark.parametrize("auth", ["", "registry_auth: {username: reader, password: guessed}\n"])
def test_a_private_image_without_the_right_password_is_refused(
    ready: EngineProcess, private_image: str, auth: str
) -> None:
    view = ready.submit(f"image: {private_image}\n{auth}commands: [echo hi]", DOCKER)
    view = ready.until_ended(view.name)
    assert view.job is not None
    assert (view.status, view.job.reason) == (RunStatus.FAILED, JobReason.IMAGE_UNAVAILABLE)
    assert "password" in (view.job.detail or "")
    assert "guessed" not in ready.log()


def test_a_private_image_with_the_right_password_runs(
    ready: EngineProcess, private_image: str
) -> None:
    auth = "registry_auth: {username: reader, password: right-password}\n"
    view = ready.submit(f"image: {private_image}\n{auth}commands: [echo hi]", DOCKER)
    assert ready.until_ended(view.name).status is RunStatus.DONE
    assert ready.output(view.name) == b"hi\n"


def test_a_pull_is_told_while_it_lasts(
    ready: EngineProcess, open_registry: Registry, python_image: str
) -> None:
    # Layers that are here already are not pulled again, so this image has one of its own.
    with contextlib.closing(docker.from_env()) as client:
        box = client.containers.create(python_image, "true")
        box.put_archive("/", _tar_of_noise(24 << 20))
        here = box.commit("dstack-test/noise", "1")
        box.remove()
        image = open_registry.push(client, "dstack-test/noise:1", "journeys/noise:1")
        client.images.remove(here.id, force=True)
    told: list[Progressed] = []
    listening = threading.Event()

    def listen() -> None:
        for update in ready.client.updates():
            listening.set()
            if isinstance(update, Progressed):
                told.append(update)

    threading.Thread(target=listen, daemon=True).start()
    assert listening.wait(30)
    name = ready.submit(f"image: {image}\ncommands: [echo hi]", DOCKER).name
    assert ready.until_ended(name).status is RunStatus.DONE
    until(lambda: any(one.progress.fraction for one in told), "a progress to be told")
    steps = {one.progress.step for one in told}
    assert steps <= {"pulling", "unpacking", "pulled"}
    fractions = [one.progress.fraction for one in told if one.progress.fraction is not None]
    assert fractions == sorted(fractions)
    assert any("MB" in one.progress.text for one in told)
    with contextlib.closing(docker.from_env()) as client:
        client.images.remove(image, force=True)


def _tar_of_noise(size: int) -> bytes:
    content = os.urandom(size)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("noise")
        entry.size = size
        tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
