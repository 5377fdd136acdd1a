"""The verbs about models: `models`, `chat`; and `token`, with which services are asked."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping

from dstack_engine.errors import ArgumentError, Refused
from dstack_jupyter.arguments import surplus_error, variable_name
from dstack_jupyter.commands.call import Call
from dstack_jupyter.commands.views import models_shown
from dstack_jupyter.failures import Detached, GatewayError
from dstack_jupyter.gateway import Gateway, Wish

#: A question may be this long, in characters; a conversation is remembered up to so many of them.
MAX_QUESTION = 1_000_000
MAX_CONVERSATION = 4_000_000

Message = Mapping[str, str]


class Answer(str):
    """What a model answered: a `str`, which its own cell does not show a second time."""

    _shown_by_cell = True

    def _ipython_display_(self) -> None:
        """Show nothing as its own cell's value; be a string like any other afterwards."""
        if not self._shown_by_cell:
            raise NotImplementedError
        self._shown_by_cell = False


class Conversations:
    """What was said to each model in this process, for `chat --continue`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, list[Message]] = {}

    def recall(self, model: str) -> list[Message]:
        """Return the last conversation with *model*."""
        with self._lock:
            return list(self._said.get(model, ()))

    def keep(self, model: str, messages: list[Message]) -> None:
        """Keep this one as the last."""
        with self._lock:
            self._said[model] = messages


CONVERSATIONS = Conversations()


def list_models(call: Call) -> None:
    """Show the models that are served, and what was asked of each."""
    call.surface.show(models_shown(call.client().models()))


def chat(call: Call) -> Answer | None:
    """Ask a model, and show its answer as it comes."""
    said, model = call.arguments, str(call.arguments.model)
    variable = None if said.out is None else variable_name(said.out)
    earlier = CONVERSATIONS.recall(model) if said.go_on else []
    messages = [*earlier, {"role": "user", "content": _question(call)}]
    if said.system is not None:
        messages = [{"role": "system", "content": said.system}, *_without_system(messages)]
    if sum(len(message["content"]) for message in messages) > MAX_CONVERSATION:
        raise ArgumentError("the conversation has become too long; leave --continue out")
    answer = Answer(_stream(call, model, messages))
    CONVERSATIONS.keep(model, [*messages, {"role": "assistant", "content": str(answer)}])
    if variable is not None:
        call.surface.assign(variable, answer)
    return None if call.surface.is_program else answer


def _stream(call: Call, model: str, messages: list[Message]) -> str:
    options = _options(call)
    gateway = Gateway(call.client)
    wish = Wish()
    text = ""
    with call.surface.telling() as tell:
        try:
            for piece in gateway.chat(model, messages, wish, **options):
                text += piece
                tell(text)
        except KeyboardInterrupt:
            wish.cancel()
            raise Detached("Interrupted: the model was told to stop.") from None
    if not text:
        raise GatewayError(f"{model} answered nothing.")
    return text


def _options(call: Call) -> dict[str, object]:
    options: dict[str, object] = {}
    if call.arguments.temperature is not None:
        try:
            options["temperature"] = float(call.arguments.temperature)
        except ValueError as error:
            given = call.arguments.temperature
            raise ArgumentError(f"--temperature takes a number, not {given!r}") from error
    if call.arguments.max_tokens is not None:
        options["max_tokens"] = call.whole_number("max-tokens", least=1)
    return options


def _question(call: Call) -> str:
    said = call.arguments
    if wrong := [word for word in said.surplus if word.startswith("-") and word != "-"]:
        raise surplus_error(call.parser, wrong)
    words = " ".join([*said.message, *said.rest])
    if call.body is not None:
        text = "\n".join(part for part in (words, call.body) if part)
    elif words and words != "-":
        text = words
    elif call.surface.is_program:
        text = sys.stdin.read(MAX_QUESTION + 1)
    else:
        text = ""
    text = text.strip()
    if not text:
        raise ArgumentError(
            "there is no question",
            hint=f"In a notebook it is the cell's body: %%dstack chat {call.arguments.model}",
        )
    if len(text) > MAX_QUESTION:
        raise ArgumentError(f"the question is longer than {MAX_QUESTION:,} characters")
    return text


def _without_system(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message["role"] != "system"]


def show_token(call: Call) -> None:
    """Print the token; in a terminal only, because a notebook's file keeps what is shown."""
    if not call.surface.is_program:
        raise Refused(
            "The token is not shown here: what a cell shows is saved with its notebook.",
            hint="Use it without showing it: dstack_jupyter.token(). "
            "In a terminal: dstack-jupyter token",
        )
    call.surface.write(f"{call.client().token()}\n")
