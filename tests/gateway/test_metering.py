"""What the meter reads of answers as they go by."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_engine.gateway.metering import MOST_KEYS, OTHERS, TAIL_LIMIT, WHOLE_LIMIT, Ledger
from dstack_engine.records.publication import ModelUsage

JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream; charset=utf-8"}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def metered(
    *chunks: bytes, status: int = 200, headers: dict[str, str] = JSON, failed: bool = False
) -> ModelUsage:
    """Return the ledger's line after one answer."""
    ledger = Ledger()
    meter = ledger.meter("tiny", "12345678")
    meter.head(status, headers)
    for chunk in chunks:
        meter.chunk(chunk)
    meter.end(failed=failed)
    (usage,) = ledger.usage()
    return usage


def tokens(usage: ModelUsage) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.uncounted


def test_an_answer_in_one_piece_tells_its_tokens() -> None:
    usage = metered(json.dumps({"choices": [], "usage": USAGE, "id": "x"}).encode())
    assert (usage.model, usage.token, usage.requests, usage.errors) == ("tiny", "12345678", 1, 0)
    assert tokens(usage) == (7, 3, 0)
    assert 0 < usage.first_token_seconds <= usage.seconds


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ({"prompt_tokens": 4, "total_tokens": 4}, (4, 0, 0)),
        ({"input_tokens": 11, "output_tokens": 2, "total_tokens": 13}, (11, 2, 0)),
        ({"total_tokens": 9}, (9, 0, 0)),
        ({"type": "duration", "seconds": 3}, (0, 0, 1)),
        ({"prompt_tokens": "7", "completion_tokens": None}, (0, 0, 1)),
        ({"prompt_tokens": -5, "completion_tokens": True}, (0, 0, 1)),
        ({"prompt_tokens": 10**30}, (0, 0, 1)),
        (None, (0, 0, 1)),
        ("much", (0, 0, 1)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 1}}, (7, 3, 0)),
    ],
)
def test_each_route_has_its_own_words_for_tokens(told: object, counted: tuple[int, ...]) -> None:
    assert tokens(metered(json.dumps({"usage": told, "more": 1}).encode())) == counted


def test_the_word_usage_in_what_a_model_wrote_is_not_its_usage() -> None:
    text = json.dumps({"usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    answer = {"usage": USAGE, "choices": [{"message": {"content": text, "role": "usage"}}]}
    assert tokens(metered(json.dumps(answer).encode())) == (7, 3, 0)


def test_an_answer_longer_than_what_is_kept_is_read_at_its_end() -> None:
    answer = json.dumps({"data": ["x" * (3 * WHOLE_LIMIT)], "usage": USAGE}).encode()
    pieces = [answer[at : at + TAIL_LIMIT] for at in range(0, len(answer), TAIL_LIMIT)]
    assert tokens(metered(*pieces)) == (7, 3, 0)


def test_a_stream_tells_its_tokens_in_its_last_event() -> None:
    events = [{"choices": [{"delta": {}}], "usage": None}] * 3 + [{"choices": [], "usage": USAGE}]
    chunks = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in events]
    assert tokens(metered(*chunks, b"data: [DONE]\n\n", headers=EVENTS)) == (7, 3, 0)


def test_a_stream_that_tells_its_tokens_all_along_is_counted_once() -> None:
    chunks = [
        b"data: "
        + json.dumps({"usage": {"prompt_tokens": 7, "completion_tokens": n}}).encode()
        + b"\n\n"
        for n in range(5)
    ]
    assert tokens(metered(*chunks, headers=EVENTS)) == (7, 4, 0)


def test_a_stream_that_tells_its_prompt_first_and_its_answer_last_is_counted_whole() -> None:
    """As Anthropic's messages do, which some engines offer beside OpenAI's routes."""
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}
    middle = {"type": "content_block_delta", "delta": {"text": "usage"}}
    end = {"type": "message_delta", "usage": {"output_tokens": 5}}
    chunks = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in (start, middle, end)]
    assert tokens(metered(*chunks, headers=EVENTS)) == (9, 5, 0)


def test_a_stream_without_usage_is_uncounted() -> None:
    assert tokens(metered(b'data: {"choices": []}\n\n', headers=EVENTS)) == (0, 0, 1)


@given(st.lists(st.integers(1, 400), max_size=20), st.booleans())
@settings(max_examples=200, deadline=None)
def test_wherever_a_stream_is_cut_into_chunks_its_usage_is_found(
    cuts: list[int], crlf: bool
) -> None:
    end = "\r\n\r\n" if crlf else "\n\n"
    events = ['{"a": "ü 😀"}', '{"usage": null}', json.dumps({"usage": USAGE}), "[DONE]"]
    stream = "".join(f"data: {event}{end}" for event in events).encode()
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[a:b] for a, b in pairwise(places)]
    assert tokens(metered(*chunks, headers=EVENTS)) == (7, 3, 0)


def test_a_packed_answer_is_not_unpacked() -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    assert tokens(metered(json.dumps({"usage": USAGE}).encode(), headers=headers)) == (0, 0, 1)


@pytest.mark.parametrize(("status", "failed"), [(500, False), (404, False), (200, True)])
def test_an_error_or_a_cut_is_an_error_and_not_uncounted(status: int, failed: bool) -> None:
    usage = metered(b"{}", status=status, failed=failed)
    assert (usage.requests, usage.errors, usage.uncounted) == (1, 1, 0)


def test_a_request_that_was_never_answered_is_an_error() -> None:
    ledger = Ledger()
    ledger.meter("tiny", "").end(failed=False)
    assert ledger.usage()[0].errors == 1


def test_an_end_that_is_told_twice_counts_once() -> None:
    ledger = Ledger()
    meter = ledger.meter("tiny", "")
    meter.head(200, JSON)
    meter.end(failed=False)
    meter.end(failed=True)
    assert (ledger.usage()[0].requests, ledger.usage()[0].errors) == (1, 0)


def test_the_ledger_stays_small_however_many_ask() -> None:
    ledger = Ledger()
    for number in range(MOST_KEYS + 50):
        ledger.meter("tiny", str(number)).end(failed=True)
    usage = {(each.model, each.token): each.requests for each in ledger.usage()}
    assert len(usage) == MOST_KEYS + 1
    assert usage[OTHERS, OTHERS] == 50


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from([JSON, EVENTS]))
@settings(max_examples=200, deadline=None)
def test_nothing_that_an_engine_may_say_makes_the_meter_fail(
    before: bytes, after: bytes, headers: dict[str, str]
) -> None:
    usage = metered(before + b'"usage"', b": {" + after, b"\n", headers=headers)
    assert usage.requests == 1
