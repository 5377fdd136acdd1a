"""OpenAI's chat over TGI's `generate`.

The TGI here is a fake, written from the API that TGI documents (its openapi.json): TGI itself needs
a GPU and weights. It answers with what it was asked, so that the tests see both sides.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI

from dstack_engine.gateway.chat_templates import BadTemplate, render
from dstack_engine.gateway.translation import Stream, generation_of
from dstack_engine.spec.services import ServedModel
from tests.gateway.model_house import TOKEN, House, a_service

#: They pass much through real sockets.
pytestmark = pytest.mark.slow

TEMPLATE = """\
{% for message in messages %}
{% if message.role not in ['system', 'user', 'assistant'] %}
{{ raise_exception('no role ' + message.role) }}
{% endif %}
<|{{ message.role }}|>{{ message.content }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}
"""
MODEL = ServedModel(name="zephyr", format="tgi", chat_template=TEMPLATE, eos_token="</s>")


class FakeTGI:
    """The documented half of TGI: `/generate`, `/generate_stream`, and its own chat if asked."""

    def __init__(self, *, own_chat: str = "absent") -> None:
        self.asked: list[dict[str, Any]] = []
        self.own_chat = own_chat
        #: What is generated, token by token, and why it ends.
        self.tokens = ["Hi", " there", "!"]
        self.finish = "eos_token"
        self.error: tuple[int, dict[str, str]] | None = None
        self.error_in_stream = False
        self.breaks_off = False
        self.endless = False
        #: Set when a client has gone before its stream's end.
        self.left = threading.Event()
        self.app = web.Application()
        self.app.router.add_post("/generate", self._generate)
        self.app.router.add_post("/generate_stream", self._generate_stream)
        if own_chat != "absent":
            self.app.router.add_post("/v1/chat/completions", self._chat)

    async def _take(self, request: web.Request) -> dict[str, Any]:
        asked: dict[str, Any] = await request.json()
        self.asked.append(asked)
        return asked

    async def _generate(self, request: web.Request) -> web.Response:
        parameters = (await self._take(request))["parameters"]
        if self.error is not None:
            return web.json_response(self.error[1], status=self.error[0])
        sequence = {
            "finish_reason": self.finish,
            "generated_tokens": len(self.tokens),
            "seed": parameters.get("seed"),
            "prefill": [{"id": n, "text": "x", "logprob": None} for n in range(6)],
            "tokens": [],
        }
        details = dict(sequence)
        text = "".join(self.tokens)
        if parameters.get("best_of"):
            details["best_of_sequences"] = [
                {**sequence, "generated_text": f"{text} {number}"}
                for number in range(1, parameters["best_of"])
            ]
        return web.json_response({"generated_text": text, "details": details})

    async def _generate_stream(self, request: web.Request) -> web.StreamResponse:
        await self._take(request)
        if self.error is not None:
            return web.json_response(self.error[1], status=self.error[0])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for index, text in enumerate(self.tokens):
            last = index == len(self.tokens) - 1
            if self.error_in_stream and last:
                told = {"error": "CUDA out of memory", "error_type": "generation"}
                await response.write(f"data:{json.dumps(told)}\n\n".encode())
                return response
            if self.breaks_off and last:
                return response
            while self.endless:
                event = stream_event(index, text, None)
                try:
                    await response.write(f"data:{json.dumps(event)}\n\n".encode())
                    await asyncio.sleep(0.01)
                except (ConnectionError, asyncio.CancelledError):
                    self.left.set()
                    raise
            event = stream_event(index, text, self.finish if last else None)
            await response.write(f"data:{json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0)
        return response

    async def _chat(self, request: web.Request) -> web.Response:
        asked = await self._take(request)
        if self.own_chat == "no template":
            told = {"error": "Template error: template not found", "error_type": "template_error"}
            return web.json_response(told, status=422)
        message = {"role": "assistant", "content": "its own"}
        usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return web.json_response(
            {
                "id": "",
                "object": "chat.completion",
                "created": 1,
                "model": asked["model"],
                "system_fingerprint": "3.0-sha",
                "choices": [choice],
                "usage": usage,
            }
        )


def stream_event(
    index: int, text: str, finish: str | None, special: bool = False
) -> dict[str, Any]:
    """Return one event of TGI's stream."""
    details = {"finish_reason": finish, "generated_tokens": index + 1, "seed": 5, "input_length": 6}
    return {
        "index": index + 1,
        "token": {"id": index, "text": text, "logprob": -0.1, "special": special},
        "generated_text": "…" if finish else None,
        "details": details if finish else None,
    }


@pytest.fixture
def tgi() -> FakeTGI:
    return FakeTGI()


@pytest.fixture
def client(house: House, tgi: FakeTGI) -> Iterator[OpenAI]:
    house.publish(a_service("zephyr", house.serve(tgi.app), model=MODEL))
    with OpenAI(base_url=house.url, api_key=TOKEN, max_retries=0, timeout=20) as client:
        yield client


def ask(client: OpenAI, text: str = "hello", **more: Any) -> Any:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]
    return client.chat.completions.create(model="zephyr", messages=messages, **more)


def test_a_chat_becomes_a_prompt_and_the_text_an_answer(
    client: OpenAI, tgi: FakeTGI, house: House
) -> None:
    answer = ask(client, seed=42, max_tokens=9, temperature=0.5, top_p=0.9, stop="\n\n")
    assert tgi.asked == [
        {
            "inputs": "<|system|>Be kind.</s>\n<|user|>hello</s>\n<|assistant|>\n",
            "parameters": {
                "do_sample": True,
                "details": True,
                "decoder_input_details": True,
                "stop": ["\n\n", "</s>"],
                "temperature": 0.5,
                "max_new_tokens": 9,
                "seed": 42,
                "top_p": 0.9,
            },
        }
    ]
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hi there!")
    assert choice.finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 3)
    assert (answer.system_fingerprint, answer.model) == ("fp_42", "zephyr")
    assert (house.usage().prompt_tokens, house.usage().completion_tokens) == (6, 3)


def test_an_answer_that_is_cut_by_its_length_says_so(client: OpenAI, tgi: FakeTGI) -> None:
    tgi.finish = "length"
    assert ask(client).choices[0].finish_reason == "length"


def test_a_stop_is_cut_from_the_answer_s_end(client: OpenAI, tgi: FakeTGI) -> None:
    tgi.tokens, tgi.finish = ["one", " STOP", "PING"], "stop_sequence"
    answer = ask(client, stop=["PING", " STOPPING"])
    assert answer.choices[0].message.content == "one"


def test_nothing_is_left_to_chance_at_temperature_0(client: OpenAI, tgi: FakeTGI) -> None:
    ask(client, temperature=0, top_p=1, extra_body={"top_k": 4, "repetition_penalty": 1.1})
    parameters = tgi.asked[0]["parameters"]
    assert parameters["do_sample"] is False
    assert "temperature" not in parameters
    assert "top_p" not in parameters
    assert (parameters["top_k"], parameters["repetition_penalty"]) == (4, 1.1)


def test_several_answers_are_the_best_of_so_many(client: OpenAI, tgi: FakeTGI) -> None:
    answer = ask(client, n=3)
    assert tgi.asked[0]["parameters"]["best_of"] == 3
    texts = [choice.message.content for choice in answer.choices]
    assert texts == ["Hi there!", "Hi there! 1", "Hi there! 2"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 9


def test_a_stream_becomes_openai_s_chunks(client: OpenAI, tgi: FakeTGI, house: House) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "Hi there!"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].system_fingerprint == "fp_5"
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (6, 3)
    assert len({chunk.id for chunk in chunks}) == 1
    usage = house.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.uncounted) == (6, 3, 0)
    assert usage.first_token_seconds > 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "`tools` is not supported"),
        ({"logprobs": True}, "`logprobs` is not supported"),
        ({"response_format": {"type": "json_object"}}, "`response_format` is not supported"),
        ({"presence_penalty": 0.5}, "`presence_penalty` is not supported"),
        ({"n": 2, "stream": True}, "one answer only"),
        ({"n": 17}, "`n` must be a whole number, from 1 to 16"),
        ({"max_tokens": -1}, "`max_tokens` must be a whole number, 1 or more"),
        ({"temperature": 3}, "`temperature` must be a number from 0 to 2"),
        ({"stop": [1]}, "`stop` must be a text or a list of texts"),
        ({"messages": []}, "`messages` must be a list"),
        ({"messages": [{"role": "user", "content": 5}]}, "`content` of `messages[0]`"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "chat template of `zephyr`: no role tool",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "takes text only",
        ),
    ],
)
def test_what_tgi_cannot_do_is_said(
    client: OpenAI, tgi: FakeTGI, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            **{"model": "zephyr", "messages": [{"role": "user", "content": "x"}], **more}
        )
    assert says in caught.value.body["message"]
    assert tgi.asked == []


def test_parts_of_text_are_one_text(client: OpenAI, tgi: FakeTGI) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    ask(client, parts)  # type: ignore[arg-type]
    assert "<|user|>ab</s>" in tgi.asked[0]["inputs"]


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [(422, 400, "validation"), (429, 429, "overloaded"), (424, 500, "x")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_tgi_s_errors_are_openai_s(
    client: OpenAI, tgi: FakeTGI, house: House, told: int, status: int, code: str, stream: bool
) -> None:
    tgi.error = told, {"error": "`inputs` is too long", "error_type": code}
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.body["message"] == "`inputs` is too long"  # type: ignore[index]
    assert house.usage().errors == 1


def test_an_error_in_mid_stream_is_told(client: OpenAI, tgi: FakeTGI, house: House) -> None:
    tgi.error_in_stream = True
    with pytest.raises(openai.APIError, match="CUDA out of memory"):
        list(ask(client, stream=True))
    assert house.usage().errors == 1


def test_a_stream_that_breaks_off_is_no_whole_answer(client: OpenAI, tgi: FakeTGI) -> None:
    tgi.breaks_off = True
    with pytest.raises(openai.APIError, match="ended before the answer's end"):
        list(ask(client, stream=True))


def test_without_a_template_the_server_s_own_chat_is_asked(house: House) -> None:
    house.ledger._tallies.clear()
    bare = ServedModel(name="zephyr", format="tgi")
    house.publish(a_service("zephyr", house.serve(FakeTGI(own_chat="there").app), model=bare))
    with OpenAI(base_url=house.url, api_key=TOKEN, max_retries=0) as client:
        assert ask(client).choices[0].message.content == "its own"
    assert house.usage().prompt_tokens == 2


@pytest.mark.parametrize("own_chat", ["absent", "no template"])
def test_where_the_server_has_no_chat_either_it_is_said_what_to_write(
    house: House, own_chat: str
) -> None:
    bare = ServedModel(name="zephyr", format="tgi")
    house.publish(a_service("zephyr", house.serve(FakeTGI(own_chat=own_chat).app), model=bare))
    with (
        OpenAI(base_url=house.url, api_key=TOKEN, max_retries=0) as client,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        ask(client)
    assert caught.value.code == "chat_template_needed"
    assert "Write `chat_template`" in caught.value.body["message"]  # type: ignore[index]


def test_a_model_without_a_replica_is_a_503(house: House) -> None:
    house.publish(a_service("zephyr", model=MODEL, holds=False, trouble="exit code 1"))
    with (
        OpenAI(base_url=house.url, api_key=TOKEN, max_retries=0) as client,
        pytest.raises(openai.InternalServerError, match="exit code 1") as caught,
    ):
        ask(client, stream=True)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["Retry-After"]


def test_a_client_that_leaves_a_stream_ends_it_at_the_server(
    client: OpenAI, tgi: FakeTGI, house: House
) -> None:
    tgi.endless = True
    stream = ask(client, stream=True)
    next(stream)
    stream.close()
    assert tgi.left.wait(20)
    assert house.usage().requests == 1


def test_a_stream_that_waits_for_a_replica_is_comforted_and_then_answered(
    house: House, tgi: FakeTGI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_engine.gateway.holding.TOLD_EVERY", 0.05)
    house.publish(a_service("zephyr", model=MODEL))
    with held_stream(house) as lines:
        assert next(lines).startswith(": waiting for a replica of zephyr")
        house.publish(a_service("zephyr", house.serve(tgi.app), model=MODEL))
        events = [line for line in lines if line.startswith("data:")]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[1][5:])["choices"][0]["delta"] == {"content": "Hi"}


def test_a_stream_whose_replica_never_comes_ends_with_an_error(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_engine.gateway.holding.TOLD_EVERY", 0.05)
    house.publish(a_service("zephyr", model=MODEL))
    with held_stream(house) as lines:
        assert next(lines).startswith(": waiting")
        house.publish(a_service("zephyr", model=MODEL, holds=False, trouble="exit code 1"))
        events = [line for line in lines if line.startswith("data:")]
    assert [json.loads(event[5:])["error"]["message"] for event in events] == ["exit code 1"]


@contextmanager
def held_stream(house: House) -> Iterator[Iterator[str]]:
    """Give the lines of a stream as they come, comments among them, empty ones left out."""
    with (
        OpenAI(base_url=house.url, api_key=TOKEN, max_retries=0, timeout=20) as client,
        client.chat.completions.with_streaming_response.create(
            model="zephyr", messages=[{"role": "user", "content": "x"}], stream=True
        ) as raw,
    ):
        yield (line for line in raw.iter_lines() if line)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<html>", "no JSON"),
        ("[]", "no JSON object"),
        ('{"details": 5}', "not TGI's"),
        ('{"token": "x"}', "not TGI's"),
        ('{"token": {}, "details": {"input_length": "x"}}', "not TGI's"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_is_not_tgi_is_told_apart(
    house: House, text: str, says: str, stream: bool
) -> None:
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"data: {text}\n\n" if stream else text)

    app.router.add_post("/generate_stream" if stream else "/generate", answer)
    house.publish(a_service("zephyr", house.serve(app), model=MODEL))
    with (
        OpenAI(base_url=house.url, api_key=TOKEN, max_retries=0) as client,
        pytest.raises(openai.APIError, match=says),
    ):
        list(ask(client, stream=stream))


@given(
    st.text("abST. \n", max_size=30), st.lists(st.text("abST.", min_size=1, max_size=4), max_size=3)
)
@settings(max_examples=300, deadline=None)
def test_a_stream_gives_the_same_text_as_the_whole_answer(text: str, stops: list[str]) -> None:
    """TGI ends at the first stop; whatever the tokens' borders, it is cut and nothing else is."""
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    generated = text[: min(ends)] if ends else text
    fields = {"messages": [{"role": "user", "content": "x"}], "stream": True, "stop": stops}
    stream = Stream(generation_of(fields, MODEL, id="x", created=1))
    said = ""
    for index, letter in enumerate(generated or " "):
        last = index == len(generated or " ") - 1
        for chunk in stream.take(stream_event(index, letter, "stop_sequence" if last else None)):
            said += chunk["choices"][0]["delta"].get("content", "")
    stop = next((s for s in sorted(stops, key=len)[::-1] if (generated or " ").endswith(s)), "")
    assert said == (generated or " ").removesuffix(stop)


def test_special_tokens_are_not_said() -> None:
    fields = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    stream = Stream(generation_of(fields, MODEL, id="x", created=1))
    stream.take(stream_event(0, "a", None))
    chunks = stream.take(stream_event(1, "<|end|>", "eos_token", special=True))
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == ["stop"]


HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ messages", "unexpected end of template"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% set _ = messages.append(1) %}", "unsafe"),
        ("{{ 'a' * 10**10 }}", "`**` may not be used"),
        ("{{ 'a' * 10000000 }}", "a product that is too long"),
        ("{{ [1] * 10000000 }}", "a product that is too long"),
        ("{% for a in range(100000000) %}{% endfor %}", "a range of more than"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("x" * 300_000, "300000 characters"),
    ],
)
def test_a_template_that_misbehaves_is_refused(template: str, says: str) -> None:
    with pytest.raises(BadTemplate, match=says.replace("*", r"\*")):
        render(template, HELLO)


def test_a_template_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack_engine.gateway.chat_templates.TIME_LIMIT", 0.05)
    forever = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(BadTemplate, match=r"more than 0\.05 s"):
        render(forever, HELLO)


def test_a_template_that_writes_too_much_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dstack_engine.gateway.chat_templates.PROMPT_LIMIT", 1000)
    with pytest.raises(BadTemplate, match="grows beyond 1000 characters"):
        render("{% for a in range(99999) %}{{ messages }}{% endfor %}", HELLO)


def test_what_tokenizers_templates_use_is_there() -> None:
    template = (
        "{%- for m in messages -%}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{{ m | tojson }}{%- endfor -%}{{ strftime_now('%Y') | length }}{{ bos_token }}"
        "{{ 'x' * 3 }}{{ 2 * 3 }}{{ range(2) | list }}{{ eos_token }}"
    )
    messages = [{"content": "<ü>"}, {"content": "no"}]
    assert render(template, messages, eos_token="$") == '{"content": "<ü>"}4xxx6[0, 1]$'
