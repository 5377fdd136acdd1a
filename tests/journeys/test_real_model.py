"""A real transformer in a real OpenAI-compatible server, asked through the gateway by `openai`.

The model is made on the spot and knows a few sentences by heart, so what it answers is known.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from dstack_engine.records.publication import ModelUsage
from tests.hosts.commands import REPOSITORY
from tests.journeys.engines import EngineProcess, until
from tests.journeys.visitors import PATIENCE, Visitors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOTEBOOKS = REPOSITORY / "notebooks"
FACTS: dict[str, str] = json.loads((NOTEBOOKS / "facts.json").read_text())
COUNT = "Count to twenty."
QUIET = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def models(extra_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the model `tiny` lies, trained first."""
    folder = tmp_path_factory.mktemp("models")
    command = [extra_python, NOTEBOOKS / "tiny_model.py", NOTEBOOKS / "facts.json", "tiny"]
    subprocess.run(command, cwd=folder, env=os.environ | QUIET, check=True, timeout=280)
    return folder


@pytest.fixture
def visitors(engine: EngineProcess) -> Visitors:
    """Visitors of an engine that runs."""
    engine.start()
    return Visitors(engine)


def a_model(name: str, models: Path, python: Path, more: str = "") -> str:
    """Return the service *name* that serves the model `tiny`."""
    return f"""
name: {name}
env: {{HF_HUB_OFFLINE: 1, OMP_NUM_THREADS: 1}}
commands:
  - cd {models}
  - {python.with_name("transformers")} serve tiny --host 127.0.0.1 --port $DSTACK_SERVICE_PORT
port: 8000
model: tiny
probes: [{{url: /health, interval: 1s}}]
{more}
"""


def client_of(visitors: Visitors, key: str | None = None) -> openai.OpenAI:
    """Return the `openai` client of the gateway, which tries nothing twice."""
    return openai.OpenAI(
        base_url=visitors.engine.client.gateway().models_url,
        api_key=visitors.engine.client.token() if key is None else key,
        timeout=PATIENCE,
        max_retries=0,
    )


def asked(question: str) -> list[ChatCompletionUserMessageParam]:
    """Return the messages of one question."""
    return [{"role": "user", "content": question}]


def answer(client: openai.OpenAI, question: str) -> str | None:
    """Return the model's answer, sent in one piece."""
    whole = client.chat.completions.create(model="tiny", messages=asked(question))
    return whole.choices[0].message.content


def streamed(client: openai.OpenAI, question: str) -> list[str]:
    """Return the pieces of the model's answer, as they were streamed."""
    stream = client.chat.completions.create(model="tiny", messages=asked(question), stream=True)
    return [choice.delta.content or "" for chunk in stream for choice in chunk.choices]


def usage_of(visitors: Visitors) -> ModelUsage | None:
    """Return what was counted for the model, by the one token there is."""
    [model] = visitors.engine.client.models()
    return model.usage[0] if model.usage else None


def test_the_openai_package_finds_nothing_missing(
    visitors: Visitors, models: Path, extra_python: Path
) -> None:
    name = visitors.submit(a_model("chat", models, extra_python)).name
    visitors.until_ready(name)
    client = client_of(visitors)
    assert [model.id for model in client.models.list()] == ["tiny"]

    whole = client.chat.completions.create(model="tiny", messages=asked("What is a replica?"))
    assert whole.choices[0].message.content == FACTS["What is a replica?"]
    assert whole.usage is not None
    prompt, completion = whole.usage.prompt_tokens, whole.usage.completion_tokens

    pieces = streamed(client, COUNT)
    assert "".join(pieces) == FACTS[COUNT]
    assert len(pieces) > 20

    async def together() -> list[str]:
        key = visitors.engine.client.token()
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=key) as friend:

            async def one(question: str) -> str:
                stream = await friend.chat.completions.create(
                    model="tiny", messages=asked(question), stream=True
                )
                return "".join(
                    [c.delta.content or "" async for chunk in stream for c in chunk.choices]
                )

            return list(await asyncio.gather(*map(one, FACTS)))

    assert asyncio.run(together()) == list(FACTS.values())

    # What only the served program knows: other routes, its own errors.
    text = client.completions.create(
        model="tiny", prompt="<|user|>What is six times seven?<|assistant|>", max_tokens=30
    )
    assert text.choices[0].text == "Forty-two."
    events = [
        event.type
        for event in client.responses.create(model="tiny", input="Who are you?", stream=True)
    ]
    assert events[-1] == "response.completed"
    with pytest.raises(openai.NotFoundError) as unknown_there:
        client.embeddings.create(model="tiny", input="words")
    assert "x-dstack-gateway" not in unknown_there.value.response.headers

    # What the gateway refuses itself.
    with pytest.raises(openai.NotFoundError, match="tiny") as unknown_here:
        client.chat.completions.create(model="large", messages=asked(COUNT))
    assert unknown_here.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        answer(client_of(visitors, key="wrong"), COUNT)

    counted = 3 + len(FACTS) + 2  # whole, streamed, the text; together; responses, embeddings
    until(lambda: (seen := usage_of(visitors)) and seen.requests == counted, "all to be counted")
    usage = usage_of(visitors)
    assert usage is not None
    assert usage.errors == 1
    assert usage.prompt_tokens >= prompt
    assert usage.completion_tokens >= completion + len(pieces) - 1
    assert usage.uncounted == 0


def test_a_sleeping_model_is_woken_by_a_stream_and_outlives_the_engine(
    visitors: Visitors, models: Path, extra_python: Path
) -> None:
    scaling = "replicas: 0..1\nscaling: {metric: concurrency, target: 4}\n"
    name = visitors.submit(a_model("sleeper", models, extra_python, scaling)).name
    assert visitors.port
    until(lambda: visitors.report(name), "the service to be published")
    assert visitors.engine.client.run(name).job is None
    client = client_of(visitors)
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert "".join(streamed(client, COUNT)) == FACTS[COUNT]
    visitors.until_ready(name)

    visitors.engine.kill()
    assert "".join(streamed(client, "Who are you?")) == FACTS["Who are you?"]
    assert answer(client, "What is the gateway?") == FACTS["What is the gateway?"]

    visitors.engine.start()
    until(lambda: (seen := usage_of(visitors)) and seen.requests == 3, "what was counted meanwhile")
    assert answer(client, "What is a service?") == FACTS["What is a service?"]


def test_two_services_serve_one_model(visitors: Visitors, models: Path, extra_python: Path) -> None:
    names = [visitors.submit(a_model(name, models, extra_python)).name for name in ("east", "west")]
    for name in names:
        visitors.until_ready(name)
    client = client_of(visitors)
    [model] = visitors.engine.client.models()
    assert (set(model.runs), model.ready_replicas) == (set(names), 2)
    for _ in range(20):
        assert answer(client, "What is six times seven?") == "Forty-two."
    until(
        lambda: all((report := visitors.report(name)) and report.requests for name in names),
        "both to have been asked",
    )
    visitors.engine.client.stop("east")
    assert [answer(client, "What is six times seven?") for _ in range(3)] == ["Forty-two."] * 3
    visitors.engine.until_ended("east")
    assert answer(client, "What is six times seven?") == "Forty-two."
