"""The engine's door: only programs of this computer that know the token, and no secret goes out."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

import docker
import httpx
import pytest

from dstack_engine.address import find_engine
from dstack_engine.hosts.docker import DockerHost
from dstack_engine.records.offers import OfferId
from tests.hosts.registries import Registry
from tests.journeys.conftest import ON_BOTH_HOSTS
from tests.journeys.engines import DOCKER, EngineProcess, task

SECRET = "hush-4711-secret"
PASSWORD = "right-password"


@pytest.fixture
def door(engine: EngineProcess) -> httpx.Client:
    engine.start()
    address = find_engine(engine.home)
    assert address is not None
    return httpx.Client(base_url=address.url, trust_env=False)


def token(engine: EngineProcess) -> dict[str, str]:
    return {"Authorization": f"Bearer {json.loads(engine.home.engine_file.read_text())['token']}"}


PATHS = ["/v1/engine", "/v1/runs", "/v1/events", "/openapi.json", "/docs", "/nowhere"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
    ],
)
def test_without_the_token_nothing_is_answered(door: httpx.Client, headers: dict[str, str]) -> None:
    for path in PATHS:
        answer = door.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert "token" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "foreign",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
    ],
)
def test_other_web_pages_are_refused_even_with_the_token(
    door: httpx.Client, engine: EngineProcess, foreign: dict[str, str]
) -> None:
    for path in PATHS:
        answer = door.get(path, headers={**token(engine), **foreign})
        assert answer.status_code in (400, 401), path
    stop = door.post("/v1/engine/stop", json={}, headers={**token(engine), **foreign})
    assert stop.status_code in (400, 401)
    assert not engine.ended


def test_the_token_opens_the_door(door: httpx.Client, engine: EngineProcess) -> None:
    port = door.base_url.port
    for origin in (
        {},
        {"Origin": f"http://127.0.0.1:{port}"},
        {"Origin": f"http://localhost:{port}"},
    ):
        assert door.get("/v1/engine", headers={**token(engine), **origin}).status_code == 200


def test_what_is_sent_is_bounded(door: httpx.Client, engine: EngineProcess) -> None:
    big = b"[" + b"1," * (3 << 20) + b"1]"
    sized = door.post("/v1/plan", content=big, headers=token(engine))
    chunked = door.post("/v1/plan", content=iter([big]), headers=token(engine))
    assert (sized.status_code, chunked.status_code) == (413, 413)
    assert door.get("/v1/engine", headers=token(engine)).status_code == 200


@pytest.mark.parametrize("place", ["-5", "99999999999999999999", "x"])
def test_a_wrong_place_in_a_log_is_refused(
    door: httpx.Client, engine: EngineProcess, place: str
) -> None:
    name = engine.submit("commands: [echo hi]").name
    engine.until_ended(name)
    answer = door.get(f"/v1/runs/{name}/logs?offset={place}", headers=token(engine))
    assert (answer.status_code, answer.text) == (200, "") or answer.status_code == 422
    cursor = door.get(f"/v1/events?cursor={place};x", headers=token(engine))
    assert cursor.status_code in (400, 422)


def test_everything_in_the_home_is_its_users_alone(engine: EngineProcess) -> None:
    engine.settings = []
    engine.start()
    name = engine.submit("commands: [echo hi, sleep 1000]").name
    engine.until_prints(name, b"hi")
    home = engine.home.root
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for path in [p for p in home.rglob("*") if engine.home.jobs not in p.parents]:
        if not path.is_symlink() and path != engine.home.config:
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o077 == 0, f"{path} has mode {mode:o}"
    engine.client.stop(name, abort=True)
    engine.until_ended(name)


TEXT = (
    "name: fox\nenv: [TOPSECRET]\n"
    "commands: ['test ${#TOPSECRET} = 16 && echo it is here', sleep 1000]\n"
)


@ON_BOTH_HOSTS
def test_a_value_of_the_environment_is_seen_by_the_job_alone(
    offer: OfferId, engine: EngineProcess
) -> None:
    engine.start().submit(TEXT, offer, environment={"TOPSECRET": SECRET})
    engine.until_prints("fox", b"it is here")
    told = _everything_told(engine) + _command_lines()
    engine.client.stop("fox", abort=True)
    engine.until_ended("fox")
    word = token(engine)["Authorization"].removeprefix("Bearer ")
    for text in (told, _everything_told(engine)):
        assert [secret for secret in (SECRET, word) if secret in text] == []


@pytest.mark.docker
def test_a_registrys_password_is_told_to_nobody(
    engine: EngineProcess, registry: Registry, busybox_image: str, docker_engine: object
) -> None:
    with contextlib.closing(docker.from_env()) as client:
        image = registry.push(client, busybox_image, "hush/hush:1")
    engine.settings = []
    engine.start()
    text = (
        f"name: fox\nimage: {image}\ncommands: [echo it is here]\n"
        f"registry_auth: {{username: reader, password: {PASSWORD}}}\n"
    )
    view = engine.submit(text, DOCKER)
    assert PASSWORD not in repr(view)
    engine.until_prints("fox", b"it is here")
    engine.until_ended("fox")
    told = _everything_told(engine) + _command_lines()
    assert [line for line in told.splitlines() if PASSWORD in line] == []
    with contextlib.closing(docker.from_env()) as client:
        assert PASSWORD not in json.dumps(client.containers.get(view_container(engine)).attrs)
        client.images.remove(image, force=True)


@ON_BOTH_HOSTS
def test_no_repr_shows_a_secret(offer: OfferId, engine: EngineProcess) -> None:
    engine.start()
    wanted = task(f"env: {{A: {SECRET}}}\ncommands: [echo hi]")
    view = engine.client.submit(wanted, offers=[offer])
    assert SECRET not in repr(view)
    assert SECRET not in repr(engine.client.events())
    assert token(engine)["Authorization"].split()[1] not in repr(find_engine(engine.home))


def view_container(engine: EngineProcess) -> str:
    job = engine.client.run("fox").job
    assert job is not None
    return job.container


def _everything_told(engine: EngineProcess) -> str:
    """Return all that the engine tells: its answers, its log, its containers' labels."""
    address = find_engine(engine.home)
    assert address is not None
    with httpx.Client(base_url=address.url, trust_env=False) as door:
        paths = ["/v1/engine", "/v1/runs?everything=true", "/v1/runs/fox", "/v1/history?limit=5000"]
        paths += ["/v1/doctor", "/v1/settings", "/openapi.json"]
        answers = [door.get(path, headers=token(engine)).text for path in paths]
    labels: list[str] = []
    with contextlib.suppress(docker.errors.DockerException, OSError):
        host = DockerHost()
        names = host.list_containers({})
        with contextlib.closing(docker.from_env()) as client:
            labels = [str(client.containers.get(name).labels) for name in names if "fox" in name]
    logs = [path.read_text(errors="replace") for path in engine.home.root.glob("engine.log*")]
    return "\n".join([*answers, *labels, *logs])


def _command_lines() -> str:
    """Return the arguments of every process of this computer."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                lines.append((folder / "cmdline").read_bytes().decode(errors="replace"))
    return "\n".join(lines)
