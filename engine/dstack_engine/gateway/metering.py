"""What is asked of each model, by whom, and at what cost in tokens.

`models` makes a `Meter` for each request; the proxy shows it the answer as it goes by. The answer
is never changed, delayed or kept: a stream is searched event by event for the word `usage`, an
answer in one piece by its last kilobytes. The sums lie in a `Ledger`, in memory alone; `control`
reports them and `exposition` shows them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

from dstack_engine.gateway.headers import Fields
from dstack_engine.records.publication import ModelUsage

#: The word looked for. In text that a model wrote its quotes are escaped, so it is not found there.
USAGE = b'"usage"'
#: An answer in one piece is kept whole up to here, in bytes; of a longer one, its end.
WHOLE_LIMIT = 1 << 20
TAIL_LIMIT = 64 << 10
#: Of an event cut by a chunk's end this much is kept, in bytes; `usage` stands near its end.
EVENT_LIMIT = 256 << 10
EVENT_TAIL = 16 << 10
#: Models times tokens that are told apart; what comes after goes under `OTHERS`.
MOST_KEYS = 2_000
OTHERS = "other"
#: Places where `usage` stands that are looked at in one answer or chunk, and the size of one.
MOST_PLACES = 1_000
USAGE_LIMIT = 8 << 10
#: Tokens beyond this are nobody's answer but a broken engine's.
MOST_TOKENS = 1 << 40

_decode = json.JSONDecoder().raw_decode
#: What stands between a key and its object; after another value (null, in most events) it does not.
_opening = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*(?=\{)").match


@dataclass
class Tally:
    """The running sums of one model and token."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0


class Ledger:
    """The sums of every model and token that asked for it, since this process started."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}

    def meter(self, model: str, token: str) -> Meter:
        """Return the meter of one request that begins now.

        *token* is the first eight hex digits of the token's digest, "" where none was needed.
        """
        return Meter(self._tally(model, token))

    def usage(self) -> tuple[ModelUsage, ...]:
        """Return the sums as they stand."""
        return tuple(
            ModelUsage(
                model,
                token,
                requests=tally.requests,
                errors=tally.errors,
                prompt_tokens=tally.prompt_tokens,
                completion_tokens=tally.completion_tokens,
                uncounted=tally.uncounted,
                first_token_seconds=tally.first_token_seconds,
                seconds=tally.seconds,
            )
            for (model, token), tally in self._tallies.items()
        )

    def _tally(self, model: str, token: str) -> Tally:
        tally = self._tallies.get((model, token))
        if tally is None:
            key = (model, token) if len(self._tallies) < MOST_KEYS else (OTHERS, OTHERS)
            tally = self._tallies.setdefault(key, Tally())
        return tally


class Meter:
    """Watches one answer go by; the proxy's `Observer`. `end` may be called more than once."""

    __slots__ = (
        "_ended",
        "_kept",
        "_latest",
        "_reads",
        "_size",
        "_started",
        "_status",
        "_tally",
        "completion_tokens",
        "prompt_tokens",
    )

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._started = monotonic()
        self._status = 0
        #: How the answer is read: "whole", "events", or "" where it cannot be.
        self._reads = ""
        #: Bytes of the answer that were seen; nothing yet is told by -1.
        self._size = -1
        self._kept = b""
        #: The latest events that told a usage, of a stream that tells it more than once.
        self._latest = b""
        self._ended = False
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None

    def head(self, status: int, headers: Fields) -> None:
        """Take the status line and the headers of the answer."""
        self._status = status
        kind = headers.get("Content-Type", "")
        if status >= 400 or headers.get("Content-Encoding", "identity") != "identity":
            return  # an error tells no usage; a packed answer is not unpacked for it
        if kind.startswith("text/event-stream"):
            self._reads = "events"
        elif "json" in kind:
            self._reads = "whole"

    def chunk(self, data: bytes) -> None:
        """Take a piece of the answer's body."""
        if self._size < 0:
            self._size = 0
            self._tally.first_token_seconds += monotonic() - self._started
        self._size += len(data)
        if self._reads == "events":
            self._read_events(data)
        elif self._reads:
            self._keep_tail(data)

    def count(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Take the tokens from one who knows them; they grow, they never shrink."""
        if prompt_tokens is not None:
            self.prompt_tokens = max(self.prompt_tokens or 0, prompt_tokens)
        if completion_tokens is not None:
            self.completion_tokens = max(self.completion_tokens or 0, completion_tokens)

    def end(self, *, failed: bool) -> None:
        """Write down what was seen; *failed* tells that the answer was cut or never came."""
        if self._ended:
            return
        self._ended = True
        if self._reads == "whole":
            self._find_usage(self._kept)
        elif self._latest:
            self._find_usage(self._latest)
        self._kept = self._latest = b""
        tally = self._tally
        tally.requests += 1
        tally.seconds += monotonic() - self._started
        if failed or not self._status or self._status >= 400:
            tally.errors += 1
        elif self.prompt_tokens is None and self.completion_tokens is None:
            tally.uncounted += 1
        tally.prompt_tokens += self.prompt_tokens or 0
        tally.completion_tokens += self.completion_tokens or 0

    def _keep_tail(self, data: bytes) -> None:
        if not self._kept:
            self._kept = data
            return
        self._kept += data
        if len(self._kept) > WHOLE_LIMIT:
            self._kept = self._kept[-TAIL_LIMIT:]

    def _read_events(self, data: bytes) -> None:
        if self._kept:
            data = self._kept + data
        if USAGE in data:
            self._note_usage(data)
        if data.endswith(b"\n"):
            self._kept = b""
            return
        rest = data[data.rfind(b"\n") + 1 :]
        self._kept = rest if len(rest) <= EVENT_LIMIT else rest[-EVENT_TAIL:]

    def _note_usage(self, data: bytes) -> None:
        """Count the first usage of a stream now, and keep the events of the latest for its end."""
        if self.prompt_tokens is None and self.completion_tokens is None:
            self._find_usage(data)
        elif _opening(data, data.rfind(USAGE) + len(USAGE)):
            self._latest = data

    def _find_usage(self, data: bytes) -> None:
        """Count the last usage that *data* tells, looking from its end."""
        end = len(data)
        for _ in range(MOST_PLACES):
            place = data.rfind(USAGE, 0, end)
            if place < 0:
                return
            told = _object_at(data, place + len(USAGE))
            if told is not None and self._count_told(told):
                return
            end = place

    def _count_told(self, told: Mapping[str, object]) -> bool:
        prompt = _first_count(told, ("prompt_tokens", "input_tokens"))
        completion = _first_count(told, ("completion_tokens", "output_tokens"))
        if prompt is None and completion is None:
            prompt = _first_count(told, ("total_tokens",))  # a reranker's
        self.count(prompt, completion)
        return prompt is not None or completion is not None


def _object_at(data: bytes, place: int) -> dict[str, object] | None:
    """Return the JSON object that follows a key and its colon; None where there is none whole."""
    opening = _opening(data, place)
    if opening is None:
        return None
    text = data[opening.end() : opening.end() + USAGE_LIMIT].decode("utf-8", "replace")
    try:
        told, _ = _decode(text)
    except (ValueError, RecursionError):
        return None  # cut: the rest comes with the next chunk, or never
    return told if isinstance(told, dict) else None


def _first_count(told: Mapping[str, object], names: Iterable[str]) -> int | None:
    for name in names:
        value = told.get(name)
        if type(value) is int and 0 <= value < MOST_TOKENS:
            return value
    return None
