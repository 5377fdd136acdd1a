"""dstack's documented task examples, each through a real engine.

What this computer can run is run; what it cannot is told as a table of reasons, in sentences.
Numbers of examples are made smaller where only their size is beyond a test.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from docker.errors import ImageNotFound

from dstack_engine.backends.local import count_cpus
from dstack_engine.errors import NoOffers
from dstack_engine.records.jobs import JobReason
from dstack_engine.records.offers import OfferId
from dstack_engine.records.runs import RunStatus, RunView
from dstack_engine.spec.arguments import merge_arguments
from dstack_engine.spec.configurations import TaskConfiguration
from tests.hosts.engines import Engine
from tests.hosts.registries import Registry
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import DOCKER, EngineProcess, task, until

pytestmark = pytest.mark.slow

OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def run(
    engine: EngineProcess,
    text: str,
    offer: OfferId | None,
    *,
    environment: Mapping[str, str] | None = None,
) -> tuple[RunView, str]:
    """Run the task in *text* to its end; return the run and what it printed."""
    engine.start()
    name = engine.submit(text, offer, environment=environment).name
    view = engine.until_ended(name)
    return view, engine.output(name).decode()


def output_of(
    engine: EngineProcess,
    text: str,
    offer: OfferId | None,
    *,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run the task in *text*, which has to succeed; return what it printed."""
    view, output = run(engine, text, offer, environment=environment)
    assert view.status is RunStatus.DONE, (view.job, output)
    return output


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses at present."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


def page_of(engine: EngineProcess, name: str, container_port: int) -> str:
    """Return what the run's server answers at its port on this computer, once it listens."""
    view = engine.until(name, lambda view: view.job and view.job.routes, "a forwarded port")
    assert view.job is not None
    [url] = [route.url for route in view.job.routes if route.container_port == container_port]
    pages: list[str] = []

    def answers() -> bool:
        try:
            with urlopen(url, timeout=5) as answer:
                pages.append(answer.read().decode())
        except (URLError, OSError):
            return False
        return True

    until(answers, f"an answer at {url}", engine.log_tail)
    return pages[0]


# --- examples that run here -------------------------------------------------------------------


@ON_BOTH_HOSTS
def test_a_python_version(engine: EngineProcess, host: str, offer: OfferId) -> None:
    image = engine.settings[0].rpartition(":")[2] if offer == DOCKER else OWN_PYTHON
    text = f"python: '{image}'\ncommands:\n  - python --version\n"
    assert f"Python {image}." in output_of(engine, text, offer)


@ON_BOTH_HOSTS
def test_environment_variables(engine: EngineProcess, host: str, offer: OfferId) -> None:
    text = """
env:
  - HUGGING_FACE_HUB_TOKEN
  - HF_HUB_ENABLE_HF_TRANSFER=1
  - MODEL=a/model with spaces
commands:
  - echo "$HUGGING_FACE_HUB_TOKEN|$HF_HUB_ENABLE_HF_TRANSFER|$MODEL|$DSTACK_RUN_NAME"
name: with-environment
"""
    output = output_of(engine, text, offer, environment={"HUGGING_FACE_HUB_TOKEN": "from-outside"})
    assert output == "from-outside|1|a/model with spaces|with-environment\n"


@ON_BOTH_HOSTS
def test_environment_variables_as_a_mapping(
    engine: EngineProcess, host: str, offer: OfferId
) -> None:
    text = "env: {MODEL: small, STEPS: 3}\ncommands:\n  - echo $MODEL for $STEPS\n"
    assert output_of(engine, text, offer) == "small for 3\n"


@ON_BOTH_HOSTS
def test_arguments(engine: EngineProcess, host: str, offer: OfferId) -> None:
    engine.start()
    configuration = task("commands:\n  - echo train.py ${{ run.args }}\n")
    assert isinstance(configuration, TaskConfiguration)
    given = merge_arguments(
        configuration, run_args=["--train_batch_size=1", "--num_train_epochs=100"], environ={}
    )
    view = engine.client.submit(given, offers=[offer])
    assert engine.until_ended(view.name).status is RunStatus.DONE
    printed = engine.output(view.name)
    assert printed == b"train.py --train_batch_size=1 --num_train_epochs=100\n"


@ON_BOTH_HOSTS
def test_ports(engine: EngineProcess, host: str, offer: OfferId) -> None:
    """All three forms: the same number, another one, and any that is free."""
    same, other, inside, starred = free_ports(4)
    engine.start()
    text = f"""
commands:
  - echo "the board" > index.html
  - python3 -m http.server {same} &
  - python3 -m http.server {inside} &
  - python3 -m http.server {starred}
ports: [{same}, "{other}:{inside}", "*:{starred}"]
"""
    name = engine.submit(text, offer).name
    for port in (same, inside, starred):
        assert page_of(engine, name, port) == "the board\n"
    job = engine.client.run(name).job
    assert job is not None
    locally = {route.container_port: route.local_port for route in job.routes}
    assert (locally[same], locally[inside]) == (same, other)
    engine.client.stop(name, abort=True)
    engine.until_ended(name)


@ON_BOTH_HOSTS
def test_a_web_app_beside_a_training(engine: EngineProcess, host: str, offer: OfferId) -> None:
    """A server in the background, training in front; when that ends the run ends with both."""
    (port,) = free_ports(1)
    engine.start()
    text = f"""
commands:
  - mkdir results
  - python3 -m http.server --directory results {port} &
  - while test ! -e stop; do date > results/index.html; sleep 0.1; done
  - echo trained
ports: [{port}]
"""
    name = engine.submit(text, offer).name
    assert page_of(engine, name, port)
    assert engine.client.execute(name, ["touch", "stop"], lambda _stream, _data: None) == 0
    assert engine.until_ended(name).status is RunStatus.DONE
    assert b"trained" in engine.output(name)


@pytest.mark.docker
def test_a_docker_image(engine: EngineProcess, busybox_image: str) -> None:
    engine.settings = []
    text = f"image: {busybox_image}\ncommands:\n  - busybox | head -n 1\n"
    assert output_of(engine, text, DOCKER).startswith("BusyBox v1")


@pytest.mark.docker
def test_an_image_of_a_private_registry(
    engine: EngineProcess, docker_engine: Engine, busybox_image: str, registry: Registry
) -> None:
    image = registry.push(docker_engine.client, busybox_image, "documented/app:1")
    text = f"""
image: {image}
registry_auth:
  username: {registry.username}
  password: ${{{{ env.REGISTRY_PASSWORD }}}}
env: [REGISTRY_PASSWORD]
commands: [echo pulled with a password]
"""
    engine.settings = []
    assert registry.password is not None
    password = {"REGISTRY_PASSWORD": registry.password}
    try:
        assert output_of(engine, text, DOCKER, environment=password) == "pulled with a password\n"
    finally:
        with suppress(ImageNotFound):
            docker_engine.client.images.remove(image, noprune=True)


def test_an_image_where_no_docker_engine_is_used_is_told(engine: EngineProcess) -> None:
    assert reasons(engine, "image: nvcr.io/nvidia/pytorch:24.05\n") == {
        "local/process": (
            "asks the image nvcr.io/nvidia/pytorch:24.05; a plain process has no image",
        )
    }


@ON_BOTH_HOSTS
def test_resources_that_are_here(engine: EngineProcess, host: str, offer: OfferId) -> None:
    """Cores, memory, shared memory and disk, no larger than any computer has."""
    text = """
resources:
  cpu: 1
  memory: 128MB..256MB
  shm_size: 32MB
  disk: 100MB..
commands:
  - python3 -c "import os; print(len(os.sched_getaffinity(0)), 'cpu')"
  - df --block-size=1M --output=size /dev/shm | tail -n 1
"""
    cpus, shared = output_of(engine, text, offer).splitlines()
    if offer == DOCKER:
        assert shared.strip() == "32"
    else:
        assert cpus == "1 cpu"


@ON_BOTH_HOSTS
def test_a_limit_of_memory_holds(engine: EngineProcess, host: str, offer: OfferId) -> None:
    text = """
resources: {memory: 96MB}
commands:
  - python3 -c "import time; hog = bytearray(300_000_000); time.sleep(60)"
"""
    view, _ = run(engine, text, offer)
    assert view.job is not None
    assert view.job.reason is JobReason.OUT_OF_MEMORY
    assert view.job.detail == "its limit is 96MB"


@ON_BOTH_HOSTS
@pytest.mark.parametrize(
    "where",
    [
        "spot_policy: auto",
        "spot_policy: on-demand",
        "backends: [local]",
        "backends: [aws, local]",
        "regions: [local]",
        "max_price: 0.5",
        "creation_policy: reuse",
    ],
)
def test_places_that_this_computer_is(
    engine: EngineProcess, host: str, offer: OfferId, where: str
) -> None:
    assert output_of(engine, f"{where}\ncommands:\n  - echo here\n", offer) == "here\n"


# --- examples that this computer cannot meet ---------------------------------------------------


def reasons(engine: EngineProcess, text: str) -> dict[str, tuple[str, ...]]:
    """Return why each offer of this computer is refused; nothing can be started on any."""
    engine.start()
    wanted = task(f"commands: [python train.py]\n{text}")
    plan = engine.client.plan(wanted)
    assert plan.offers == ()
    with pytest.raises(NoOffers) as refused:
        engine.client.submit(wanted)
    table = {str(refusal.offer.id): refusal.reasons for refusal in plan.refusals}
    for reason in {reason for each in table.values() for reason in each}:
        assert f"    {reason}" in refused.value.message.splitlines()
    assert engine.client.runs(everything=True) == []
    return table


#: What the example writes, and what is said of a computer that has neither GPU nor spot price.
BEYOND: dict[str, tuple[str, tuple[str, ...]]] = {
    "a GPU by its memory": (
        "resources: {gpu: 4096GB}",
        ("asks 4TB of GPU memory; this computer has ",),
    ),
    "GPUs by name, memory and count": (
        "resources: {gpu: 'MI300X:192GB..:64'}",
        ("asks 64 MI300X GPUs with at least 192GB of memory each; this computer has ",),
    ),
    "a TPU": (
        "resources: {gpu: {vendor: google, name: v5litepod-8}}",
        ("asks 1 v5litepod-8 GPU; this computer has ",),
    ),
    "memory, cores and disk": (
        "resources: {cpu: 4096.., memory: 200TB.., disk: 2000TB..}",
        (
            f"asks at least 4096 CPUs; this computer has {count_cpus()}",
            "asks at least 200TB of memory; this computer has ",
            "asks at least 2000TB of disk; this computer has ",
        ),
    ),
    "distributed": ("nodes: 2", ("asks 2 nodes; this computer is one",)),
    "spot": ("spot_policy: spot", ("spot_policy is spot; this computer is not a spot machine",)),
    "backends": ("backends: [aws, gcp]", ("backends: aws, gcp; its backend is local",)),
    "regions": (
        "regions: [eu-west-1, eu-west-2]",
        ("regions: eu-west-1, eu-west-2; its region is local",),
    ),
    "instance types": (
        "instance_types: [p3.8xlarge]",
        ("instance_types: p3.8xlarge; its type is process",),
    ),
    "a volume": (
        "volumes: [{name: my-volume, path: /data}]",
        ("asks the volume my-volume; this computer has no volumes",),
    ),
}


@pytest.mark.parametrize("example", BEYOND)
def test_what_is_beyond_this_computer_is_a_table_of_reasons(
    engine: EngineProcess, example: str
) -> None:
    text, expected = BEYOND[example]
    [(offer, told)] = reasons(engine, text).items()
    assert offer == "local/process"
    assert len(told) == len(expected)
    for sentence, beginning in zip(told, expected, strict=True):
        assert sentence.startswith(beginning)


@pytest.mark.docker
def test_each_way_to_run_on_this_computer_has_its_own_reasons(
    engine: EngineProcess, python_image: str
) -> None:
    engine.settings = [f"default_image: {python_image}"]
    told = reasons(engine, "nodes: 4\nspot_policy: spot\nprivileged: true\n")
    shared = (
        "spot_policy is spot; this computer is not a spot machine",
        "asks 4 nodes; this computer is one",
    )
    assert set(told["local/docker"]) == set(shared)
    assert set(shared) < set(told["local/process"])


def test_a_backend_that_is_not_set_up_is_said(engine: EngineProcess) -> None:
    engine.start()
    plan = engine.client.plan(task("commands: [python train.py]\nbackends: [aws, gcp]\n"))
    assert plan.remarks == ("aws, gcp are not configured; configured: local, ssh",)


@pytest.fixture(autouse=True)
def _ended(engine: EngineProcess) -> Iterator[None]:
    """End what a failed test left running, so that no container stays."""
    yield
    if engine.process is not None and not engine.ended:
        for view in engine.client.runs():
            engine.client.stop(view.name, abort=True)
            engine.until_ended(view.name)
