"""What all handlers share: who may ask, how the engine is asked, how a refusal is answered.

The engine's token stays here; a page sends Jupyter's. Every handler is authenticated, and
authorized for the resource `dstack`. Whatever is refused comes back as
``{"message", "hint", "code"}``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from dstack_engine.client import Client
from dstack_engine.errors import (
    ArgumentError,
    DstackError,
    EngineDown,
    EngineUnauthorized,
    TooLarge,
)
from dstack_jupyter.server.changes import Changes
from dstack_jupyter.session import session

AUTH_RESOURCE = "dstack"
#: Where Jupyter's web application keeps what our handlers share.
SETTING = "dstack_jupyter_changes"
#: What the page sends is a wish of a few words, in bytes.
MAX_BODY = 10_000

T = TypeVar("T")

#: Questions wait for the engine here, and never for Jupyter's own work.
_threads = ThreadPoolExecutor(8, thread_name_prefix="dstack-ask")


async def in_thread(work: Callable[[], T]) -> T:
    """Return what *work* returns; it may block."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work)


class DstackHandler(APIHandler):
    """A handler of `/dstack-jupyter/…` that answers JSON."""

    auth_resource = AUTH_RESOURCE

    @property
    def changes(self) -> Changes:
        """Return who tells pages of changes."""
        changes: Changes = self.settings[SETTING]
        return changes

    async def ask(self, question: Callable[[Client], T], *, start: bool = False) -> T:
        """Return the engine's answer; *start* an engine for it if none runs."""
        return await in_thread(lambda: question(session().client(start=start)))

    def answer(self, body: object) -> None:
        """Answer with *body* as JSON."""
        self.finish(json.dumps(body))

    def write_error(self, status_code: int, **details: Any) -> None:
        """Answer an error as the page reads it."""
        _, error, _ = details.get("exc_info", (None, None, None))
        if not isinstance(error, DstackError):
            super().write_error(status_code, **details)
            return
        self.set_status(status_of(error))
        self.finish(json.dumps(refusal(error)))

    def log_exception(self, kind: Any, error: Any, traceback: Any) -> None:
        """Log what was not foreseen; what the engine refuses is said to the page alone."""
        if not isinstance(error, DstackError):
            super().log_exception(kind, error, traceback)

    def read_object(self, limit: int = MAX_BODY) -> dict[str, Any]:
        """Return the request's body, a JSON object of no more than *limit* bytes; {} for none.

        Raises `ArgumentError` for any other body, and `TooLarge`.
        """
        if len(self.request.body) > limit:
            raise TooLarge(f"The request is larger than {limit:,} bytes.")
        try:
            body = json.loads(self.request.body or b"{}")
        except (ValueError, RecursionError) as error:
            raise ArgumentError("The request is no JSON.") from error
        if not isinstance(body, dict):
            raise ArgumentError("The request is no JSON object.")
        return body

    def read_number(self, name: str) -> int | None:
        """Return a whole number of the request's query; raise `ArgumentError` for another word."""
        text = self.get_query_argument(name, None)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 16):
            raise ArgumentError(f"{name} must be a whole number")
        return int(text)

    def read_switch(self, name: str) -> bool:
        """Return a yes or no of the request's query."""
        return self.get_query_argument(name, "false").lower() in ("true", "1")


def flag_of(body: dict[str, Any], name: str) -> bool:
    """Return a yes or no of a request, no where it is left out; raise `ArgumentError`."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise ArgumentError(f'the request must be {{"{name}": true}} or {{"{name}": false}}')
    return value


def text_of(body: dict[str, Any], name: str) -> str:
    """Return a text of a request; raise `ArgumentError` for one without it."""
    value = body.get(name)
    if not isinstance(value, str):
        raise ArgumentError(f'the request must be {{"{name}": "…"}}')
    return value


def status_of(error: DstackError) -> int:
    """Return the HTTP status that tells of *error*."""
    if isinstance(error, EngineDown):
        return 503
    # It is this server that the engine does not know; the page's own login is well.
    return 502 if isinstance(error, EngineUnauthorized) else error.http_status


def refusal(error: DstackError) -> dict[str, str | None]:
    """Return *error* as the page reads it."""
    return {"message": error.message, "hint": error.hint, "code": error.code}


class UnknownHandler(DstackHandler):
    """Everything below `/dstack-jupyter/` that is no route."""

    def _refuse(self) -> None:
        self.set_status(404)
        self.answer({"message": "There is no such route.", "hint": None, "code": "no-route"})

    @web.authenticated
    @authorized("read")  # type: ignore[untyped-decorator]
    async def get(self, *_: str) -> None:
        """Answer 404."""
        self._refuse()

    post = put = delete = patch = get
