"""A chat template makes a prompt of messages, as the tokenizers' own templates are written.

Templates come from a service's author, messages from anybody: rendering is sandboxed, and bounded
in size and time. Called by `tgi` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from time import monotonic
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: The longest template and prompt, in characters, and the longest text or list it may multiply.
TEMPLATE_LIMIT = 256 << 10
PROMPT_LIMIT = 16 << 20
PRODUCT_LIMIT = 1 << 20
#: How long one prompt may take, in seconds. It is looked at with each piece of output and each
#: turn of a loop over `range`, which the sandbox bounds as well.
TIME_LIMIT = 2.0


class BadTemplate(Exception):
    """A template that is wrong, or that these messages cannot be put into; the text says why."""


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with products that stay small."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("`**` may not be used")
        sizes = [value for value in (left, right) if isinstance(value, int)]
        texts = [value for value in (left, right) if hasattr(value, "__len__")]
        if texts and any(size * len(text) > PRODUCT_LIMIT for size in sizes for text in texts):
            raise SecurityError("a product that is too long")
        return super().call_binop(context, operator, left, right)


def render(
    source: str, messages: Sequence[Mapping[str, Any]], *, bos_token: str = "", eos_token: str = ""
) -> str:
    """Return the prompt that ends where the assistant's answer begins.

    Raises `BadTemplate`, also for what the template itself complains of by `raise_exception`.
    """
    if len(source) > TEMPLATE_LIMIT:
        raise BadTemplate(f"it has {len(source)} characters; {TEMPLATE_LIMIT} are allowed")
    deadline = monotonic() + TIME_LIMIT
    try:
        pieces = _compiled(source).generate(
            messages=messages,
            add_generation_prompt=True,
            bos_token=bos_token,
            eos_token=eos_token,
            range=lambda *bounds: _timed_range(bounds, deadline),
        )
        return _joined(pieces, deadline)
    except BadTemplate:
        raise
    except TemplateError as error:
        raise BadTemplate(error.message or type(error).__name__) from error
    except Exception as error:  # whatever an expression in the template may raise
        raise BadTemplate(f"{type(error).__name__}: {error}") from error


def _joined(pieces: Iterable[str], deadline: float) -> str:
    kept: list[str] = []
    size = 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > PROMPT_LIMIT:
            raise BadTemplate(f"the prompt grows beyond {PROMPT_LIMIT} characters")
        if monotonic() > deadline:
            raise _too_slow()
    return "".join(kept)


def _timed_range(bounds: tuple[int, ...], deadline: float) -> Iterable[int]:
    numbers = range(*bounds)
    if len(numbers) > 100_000:
        raise BadTemplate("a range of more than 100000 numbers")
    return _Numbers(numbers, deadline)


class _Numbers:
    """A range that looks at the time with each turn."""

    def __init__(self, numbers: range, deadline: float) -> None:
        self._numbers = numbers
        self._deadline = deadline

    def __iter__(self) -> Iterator[int]:
        for number in self._numbers:
            if monotonic() > self._deadline:
                raise _too_slow()
            yield number

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> int:
        return self._numbers[index]


def _too_slow() -> BadTemplate:
    return BadTemplate(f"rendering takes more than {TIME_LIMIT:g} s")


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.filters["tojson"] = _tojson
    return environment.from_string(source)


def _raise_exception(message: str) -> NoReturn:
    raise BadTemplate(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
