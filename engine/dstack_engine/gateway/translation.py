"""Between OpenAI's chat and TGI's `generate`: what is asked, and what is answered.

Pure: `tgi` carries the words to and fro. The field names are those of TGI's API as it documents it
(`GenerateParameters`, `Details`, `StreamDetails`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dstack_engine.gateway.chat_templates import BadTemplate, render
from dstack_engine.spec.services import ServedModel

#: Answers to one request at most: TGI itself allows two unless it is told otherwise.
MOST_ANSWERS = 16
MOST_STOPS = 16

#: Fields of a chat that TGI's `generate` has no word for, with the values that ask for nothing.
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "audio": (None,),
    "modalities": (None, ["text"]),
}
#: Fields that mean the same to both and go on under their own names.
_SHARED = ("frequency_penalty", "repetition_penalty", "top_k", "typical_p", "truncate", "watermark")
_FINISHES = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}


class Unanswerable(Exception):
    """A request that TGI's `generate` cannot answer: a 400; the text says why."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Generation:
    """What TGI is asked."""

    inputs: str
    parameters: Mapping[str, Any]
    #: What ends an answer, and is cut from its end.
    stops: tuple[str, ...]
    stream: bool
    #: Whether a stream ends with its usage.
    usage: bool
    model: str
    id: str
    created: int

    @property
    def body(self) -> dict[str, Any]:
        """Return the JSON that is sent."""
        return {"inputs": self.inputs, "parameters": dict(self.parameters)}


def generation_of(
    fields: Mapping[str, Any], model: ServedModel, *, id: str, created: int
) -> Generation:
    """Return what to ask TGI for the chat in *fields*; raises `Unanswerable`."""
    _refuse_unsupported(fields)
    stream = fields.get("stream") is True
    answers = _whole(fields, "n", 1, MOST_ANSWERS) or 1
    if stream and answers > 1:
        raise Unanswerable("TGI streams one answer only: leave out `n`, or `stream`.", "n")
    stops = _stops(fields.get("stop"), model.eos_token)
    options = fields.get("stream_options")
    return Generation(
        inputs=_prompt(fields.get("messages"), model),
        parameters=_parameters(fields, stops, answers, stream),
        stops=stops,
        stream=stream,
        usage=isinstance(options, dict) and options.get("include_usage") is True,
        model=model.name,
        id=id,
        created=created,
    )


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    for name, harmless in _UNSUPPORTED.items():
        if fields.get(name) not in harmless:
            raise Unanswerable(
                f"`{name}` is not supported: the service speaks TGI's `generate`, which has no"
                " word for it. A service with `format: openai` takes all fields.",
                name,
            )


def _parameters(
    fields: Mapping[str, Any], stops: Sequence[str], answers: int, stream: bool
) -> dict[str, Any]:
    temperature = _number(fields, "temperature", 0, 2)
    parameters: dict[str, Any] = {
        # TGI takes no temperature of 0: it says `do_sample` where nothing is left to chance.
        "do_sample": temperature != 0,
        "details": True,
        "decoder_input_details": not stream,
        "stop": list(stops),
    }
    if temperature:
        parameters["temperature"] = temperature
    longest = _whole(fields, "max_completion_tokens", 1) or _whole(fields, "max_tokens", 1)
    if longest is not None:
        parameters["max_new_tokens"] = longest
    seed = _whole(fields, "seed", 0)
    if seed is not None:
        parameters["seed"] = seed
    top_p = _number(fields, "top_p", 0, 1)
    if top_p is not None and 0 < top_p < 1:
        parameters["top_p"] = top_p
    if answers > 1:
        parameters["best_of"] = answers
    parameters.update({name: fields[name] for name in _SHARED if fields.get(name) is not None})
    return parameters


def _stops(stop: object, eos_token: str | None) -> tuple[str, ...]:
    given = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise Unanswerable("`stop` must be a text or a list of texts.", "stop")
    if len(given) > MOST_STOPS:
        raise Unanswerable(f"`stop` may have {MOST_STOPS} texts at most.", "stop")
    stops = [each for each in given if each]
    if eos_token and eos_token not in stops:
        stops.append(eos_token)
    return tuple(stops)


def _prompt(messages: object, model: ServedModel) -> str:
    if not isinstance(messages, list) or not messages:
        raise Unanswerable("`messages` must be a list with a message or more.", "messages")
    plain = [_plain_message(each, number) for number, each in enumerate(messages)]
    # TGI puts the token that begins a text before it by itself, so the template must not.
    try:
        return render(model.chat_template or "", plain, eos_token=model.eos_token or "")
    except BadTemplate as error:
        raise Unanswerable(
            f"The messages do not go into the chat template of `{model.name}`: {error}", "messages"
        ) from error


def _plain_message(message: object, number: int) -> dict[str, Any]:
    """Return a message whose content is text: parts of text are joined."""
    where = f"messages[{number}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Unanswerable(f"`{where}` must be an object with a `role`.", where)
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_text_of(part, where) for part in content)
    if not isinstance(content, str):
        raise Unanswerable(f"The `content` of `{where}` must be text.", where)
    return {**message, "content": content}


def _text_of(part: object, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise Unanswerable(
        f"`{where}` has a part that is no text, and the service takes text only.", where
    )


def _whole(fields: Mapping[str, Any], name: str, least: int, most: int | None = None) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) is not int or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most}"
        raise Unanswerable(f"`{name}` must be a whole number, {bounds}.", name)
    return value


def _number(fields: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise Unanswerable(f"`{name}` must be a number from {least} to {most}.", name)
    return float(value)


def without_stop(text: str, stops: Sequence[str]) -> str:
    """Return *text* without the stop that ends it."""
    for stop in sorted(stops, key=len, reverse=True):
        if text.endswith(stop):
            return text[: -len(stop)]
    return text


def completion_of(
    answer: Mapping[str, Any], asked: Generation, prompt_tokens: int | None
) -> dict[str, Any]:
    """Return OpenAI's form of a whole answer of TGI's.

    *prompt_tokens* is what TGI's headers told; its details know better where they tell it. What is
    no answer of TGI's raises `KeyError`, `TypeError`, `ValueError` or `AttributeError`.
    """
    details = answer.get("details") or {}
    sequences = [{**details, "generated_text": answer["generated_text"]}]
    sequences += details.get("best_of_sequences") or []
    prefill = details.get("prefill")
    if prefill:
        prompt_tokens = len(prefill)
    generated = sum(each.get("generated_tokens", 0) for each in sequences)
    return {
        "id": asked.id,
        "object": "chat.completion",
        "created": asked.created,
        "model": asked.model,
        "system_fingerprint": _fingerprint(details),
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": without_stop(each["generated_text"], asked.stops),
                },
                "logprobs": None,
                "finish_reason": _FINISHES.get(each.get("finish_reason", ""), "stop"),
            }
            for index, each in enumerate(sequences)
        ],
        "usage": usage_of(prompt_tokens, generated),
    }


def usage_of(prompt_tokens: int | None, completion_tokens: int) -> dict[str, int] | None:
    """Return OpenAI's usage; None where TGI does not tell the prompt's length."""
    if prompt_tokens is None:
        return None
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _fingerprint(details: Mapping[str, Any]) -> str:
    seed = details.get("seed")
    return f"fp_{seed}" if seed is not None else "fp_none"


@dataclass
class Stream:
    """Turns TGI's stream of tokens into OpenAI's chunks, one event at a time.

    Text that may be the beginning of a stop is kept back until it is known not to be.
    """

    asked: Generation
    prompt_tokens: int | None = None
    completion_tokens: int = 0
    finished: bool = False
    _held: str = field(default="", repr=False)

    def first(self) -> dict[str, Any]:
        """Return the chunk that begins the answer."""
        return self._chunk({"role": "assistant", "content": ""})

    def take(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the chunks for one event of TGI's."""
        chunks: list[dict[str, Any]] = []
        token = event.get("token") or {}
        details = event.get("details")
        if not token.get("special"):
            self._held += token.get("text", "")
        ready = without_stop(self._held, self.asked.stops) if details else self._ready()
        self._held = "" if details else self._held[len(ready) :]
        self.completion_tokens += 1
        if ready:
            chunks.append(self._chunk({"content": ready}))
        if details:
            chunks += self._last(details)
        return chunks

    def _last(self, details: Mapping[str, Any]) -> list[dict[str, Any]]:
        self.finished = True
        self.completion_tokens = details.get("generated_tokens", self.completion_tokens)
        self.prompt_tokens = details.get("input_length", self.prompt_tokens)
        reason = _FINISHES.get(details.get("finish_reason", ""), "stop")
        chunks = [self._chunk({}, reason, _fingerprint(details))]
        usage = usage_of(self.prompt_tokens, self.completion_tokens)
        if self.asked.usage and usage is not None:
            chunks.append({**self._chunk({}), "choices": [], "usage": usage})
        return chunks

    def _ready(self) -> str:
        """Return the part of the kept text that cannot be the beginning of a stop."""
        text = self._held
        longest = max(
            (
                length
                for stop in self.asked.stops
                for length in range(1, min(len(stop), len(text)) + 1)
                if text.endswith(stop[:length])
            ),
            default=0,
        )
        return text[: len(text) - longest]

    def _chunk(
        self, delta: Mapping[str, Any], finish: str | None = None, fingerprint: str | None = None
    ) -> dict[str, Any]:
        return {
            "id": self.asked.id,
            "object": "chat.completion.chunk",
            "created": self.asked.created,
            "model": self.asked.model,
            "system_fingerprint": fingerprint,
            "choices": [
                {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
            ],
        }
