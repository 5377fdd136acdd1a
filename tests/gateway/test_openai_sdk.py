"""The `openai` package, as people use it, asks a server of its protocol through the gateway."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.gateway.model_house import TOKEN, House, OpenAIServer, a_service, wait_until

#: They pass much through real sockets.
pytestmark = pytest.mark.slow

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
]


@pytest.fixture
def server() -> OpenAIServer:
    return OpenAIServer()


@pytest.fixture
def house(house: House, server: OpenAIServer) -> House:
    port = house.serve(server.app)
    house.publish(a_service("tiny", port), a_service("other", port, model="other"))
    return house


@pytest.fixture
def client(house: House) -> Iterator[OpenAI]:
    with OpenAI(base_url=house.url, api_key=TOKEN, max_retries=0, timeout=20) as client:
        yield client


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_chat_is_answered(client: OpenAI, house: House) -> None:
    answer = client.chat.completions.create(model="tiny", messages=said("hello"), temperature=0)
    assert answer.choices[0].message.content == "You said hello"
    assert answer.usage.total_tokens == 10
    assert answer.model_extra == {"unknown_to_clients": "kept"}
    assert house.usage().prompt_tokens == 7


def test_a_chat_is_streamed_and_its_tokens_counted(client: OpenAI, house: House) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=said("one two three"),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    words = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert words == ["one", "two", "three"]
    assert chunks[-1].usage.completion_tokens == 3
    usage = house.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.uncounted) == (5, 3, 0)


def test_a_stream_without_usage_is_counted_as_uncounted(client: OpenAI, house: House) -> None:
    list(client.chat.completions.create(model="tiny", messages=said("a b"), stream=True))
    usage = house.usage()
    assert (usage.requests, usage.errors, usage.completion_tokens, usage.uncounted) == (1, 0, 0, 1)


def test_fields_that_the_gateway_does_not_know_reach_the_server(
    client: OpenAI, server: OpenAIServer
) -> None:
    parts = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": parts, "name": "me"}],
        logprobs=True,
        top_logprobs=3,
        reasoning_effort="low",
        max_completion_tokens=5,
        extra_body={"top_k": 3, "guided_json": {"a": [1]}},
    )
    body = json.loads(server.seen[-1].body)
    assert body["messages"] == [{"role": "user", "content": parts, "name": "me"}]
    assert (body["top_k"], body["guided_json"], body["reasoning_effort"]) == (3, {"a": [1]}, "low")


def test_a_tool_is_called_and_its_result_taken(client: OpenAI, server: OpenAIServer) -> None:
    asked = said("how is the weather?")
    call = client.chat.completions.create(
        model="tiny", messages=asked, tools=TOOLS, tool_choice="required"
    ).choices[0]
    assert call.finish_reason == "tool_calls"
    assert call.message.content is None
    (tool_call,) = call.message.tool_calls
    assert tool_call.function.name == "weather"
    result = {"role": "tool", "tool_call_id": tool_call.id, "content": "sunny"}
    answer = client.chat.completions.create(
        model="tiny", messages=[*asked, call.message, result], tools=TOOLS
    )
    assert answer.choices[0].message.content == "You said sunny"
    assert json.loads(server.seen[-1].body)["messages"][1]["tool_calls"][0]["id"] == tool_call.id


def test_the_raw_response_has_the_server_s_headers(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=said("x"))
    assert raw.headers["x-request-id"] == "req-1"
    assert "x-dstack-gateway" not in raw.headers
    assert raw.parse().choices[0].message.content == "You said x"


def test_the_server_s_own_error_arrives_as_it_is(client: OpenAI, house: House) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=said("fail"))
    assert (caught.value.code, caught.value.body["message"]) == ("context_length", "too long")
    assert house.usage().errors == 1


def test_an_unknown_model_is_a_not_found_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="tinny", messages=said("x"))
    assert caught.value.code == "model_not_found"
    assert "Did you mean `tiny`?" in caught.value.body["message"]


def test_a_wrong_key_is_an_authentication_error(house: House) -> None:
    with (
        OpenAI(base_url=house.url, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_a_model_without_a_replica_is_tried_again_by_the_client(
    house: House, server: OpenAIServer
) -> None:
    house.publish(a_service("tiny", holds=False))
    with (
        OpenAI(base_url=house.url, api_key=TOKEN, max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(model="tiny", messages=said("x"))
    assert caught.value.status_code == 503
    assert caught.value.code == "no_replica"


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["other", "tiny"]
    assert client.models.retrieve("tiny").owned_by == "dstack-jupyter"


def test_embeddings_are_had_and_counted(client: OpenAI, house: House) -> None:
    answer = client.embeddings.create(model="tiny", input="x", encoding_format="float")
    assert answer.data[0].embedding == [0.5, 0.25]
    usage = house.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.uncounted) == (4, 0, 0)


def test_responses_are_had_and_counted(client: OpenAI, house: House) -> None:
    assert client.responses.create(model="tiny", input="x").output_text == "done"
    assert (house.usage().prompt_tokens, house.usage().completion_tokens) == (11, 2)


def test_audio_is_sent_as_a_form(client: OpenAI) -> None:
    sound = io.BytesIO(bytes(range(256)) * 4000)
    sound.name = "sound.wav"
    assert client.audio.transcriptions.create(model="tiny", file=sound).text == (
        "1024000 bytes for tiny"
    )


def test_a_client_that_leaves_a_stream_ends_it_at_the_server(
    client: OpenAI, server: OpenAIServer
) -> None:
    stream = client.chat.completions.create(model="tiny", messages=said("endless"), stream=True)
    next(iter(stream))
    stream.close()
    assert server.left.wait(20)


def test_a_stream_that_is_cut_is_an_error_to_the_client(client: OpenAI, house: House) -> None:
    stream = client.chat.completions.create(model="tiny", messages=said("a cut b"), stream=True)
    with pytest.raises(openai.APIConnectionError):
        list(stream)
    assert house.usage().errors == 1


def test_many_ask_at_once_and_each_has_its_own_answer(house: House) -> None:
    async def ask_all() -> list[str]:
        async with AsyncOpenAI(base_url=house.url, api_key=TOKEN, max_retries=0) as client:

            async def stream(number: int) -> str:
                text = f"{number} and {number}"
                chunks = await client.chat.completions.create(
                    model="tiny", messages=said(text), stream=True
                )
                words = [c.choices[0].delta.content or "" async for c in chunks if c.choices]
                return " ".join(words).strip()

            return await asyncio.gather(*(stream(number) for number in range(60)))

    assert asyncio.run(ask_all()) == [f"{number} and {number}" for number in range(60)]
    assert house.usage(60).requests == 60


def test_an_async_client_that_gives_up_ends_the_stream_at_the_server(
    house: House, server: OpenAIServer
) -> None:
    async def give_up() -> None:
        async with AsyncOpenAI(base_url=house.url, api_key=TOKEN, max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="tiny", messages=said("endless"), stream=True
            )
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(give_up())
    assert server.left.wait(20)


def test_a_stream_that_waits_for_a_replica_is_comforted_and_then_answered(
    house: House, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_engine.gateway.holding.TOLD_EVERY", 0.05)
    house.publish(a_service("tiny"))
    with (
        OpenAI(base_url=house.url, api_key=TOKEN, max_retries=0, timeout=20) as client,
        client.chat.completions.with_streaming_response.create(
            model="tiny", messages=said("one two"), stream=True
        ) as raw,
    ):
        lines = raw.iter_lines()
        first = next(line for line in lines if line)
        assert first.startswith(": waiting for a replica of tiny")
        house.publish(a_service("tiny", house.serve(server.app)))
        rest = [line for line in lines if line.startswith("data:")]
    assert rest[-1] == "data: [DONE]"
    assert [json.loads(line[5:])["choices"][0]["delta"] for line in rest[:2]] == [
        {"content": "one"},
        {"content": "two"},
    ]
    wait_until(lambda: house.usage().errors == 0, "it is no error")


def test_an_async_client_is_told_errors_as_a_plain_one_is(house: House) -> None:
    async def errors() -> list[tuple[int, str | None]]:
        found = []
        for key, model in ((TOKEN, "unknown"), ("wrong", "tiny"), (TOKEN, "tiny")):
            async with AsyncOpenAI(base_url=house.url, api_key=key, max_retries=0) as client:
                with pytest.raises(openai.APIStatusError) as caught:
                    await client.chat.completions.create(
                        model=model, messages=said("fail"), stream=True
                    )
                found.append((caught.value.status_code, caught.value.code))
        return found

    assert asyncio.run(errors()) == [
        (404, "model_not_found"),
        (401, "invalid_api_key"),
        (400, "context_length"),
    ]


def test_a_client_that_waits_no_longer_ends_its_request_at_the_server(
    house: House, server: OpenAIServer
) -> None:
    async def give_up() -> None:
        async with AsyncOpenAI(base_url=house.url, api_key=TOKEN, max_retries=0) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(model="tiny", messages=said("never"))
            )
            while not server.seen:
                await asyncio.sleep(0.005)
            asking.cancel()

    asyncio.run(give_up())
    assert server.left.wait(20)
    assert house.usage().requests == 1


def test_a_client_that_leaves_while_it_is_held_frees_its_place(house: House) -> None:
    house.publish(a_service("tiny"))
    service = house.table.services["tiny"]

    async def give_up() -> None:
        async with AsyncOpenAI(base_url=house.url, api_key=TOKEN, max_retries=0) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(model="tiny", messages=said("x"))
            )
            while not service.holding.held:
                await asyncio.sleep(0.005)
            asking.cancel()

    asyncio.run(give_up())
    wait_until(lambda: service.holding.held == 0, "the place is free")
    wait_until(lambda: service.counts.under_way == 0, "the visit is closed")
