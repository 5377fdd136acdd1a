"""The gateway from a kernel: a service asked, a model talked to, an OpenAI client made ready.

The token is read here, goes into one header, and nowhere else: no page, no state of a widget, no
repr and no error ever holds it. Called by the service's card, by `chat` and by `Run`.
"""

from __future__ import annotations

import http.client
import importlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dstack_engine.client import Client
from dstack_engine.errors import DstackError, NotFound, Refused
from dstack_engine.records.updates import GatewayView
from dstack_jupyter.failures import GatewayError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

#: Waits, in seconds: to be connected, and for the next word of an answer (a service that sleeps
#: may have to be started first).
CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 600.0

#: As much of an answer's body as is looked at, and of one line of a stream, in bytes.
MAX_BODY = 65_536
MAX_LINE = 4_000_000

#: Header by which the gateway's own errors are told from a service's.
OWN_ERROR = "X-Dstack-Gateway"


class Cancelled(Exception):
    """Somebody wanted no more of the answer."""


class Token(str):
    """The user's token: a `str` like any other, but shown as its own concealment."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<token: hidden; str(token) is its text>"


@dataclass(frozen=True)
class Answer:
    """What a service answered."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    #: There was more of the body than is kept.
    is_cut: bool
    #: From sending to the head of the answer, in seconds.
    seconds: float


@dataclass
class Wish:
    """One question under way; `cancel` ends it from any thread, at the service as well."""

    _socket: socket.socket | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    cancelled: bool = False

    def hold(self, connection: socket.socket | None) -> None:
        """Keep what is to be cut; raise `Cancelled` where that was wanted already."""
        with self._lock:
            self._socket = connection
            self.check()

    def check(self) -> None:
        """Raise `Cancelled` where that was wanted."""
        if self.cancelled:
            raise Cancelled

    def cancel(self) -> None:
        """Cut the connection; the gateway then lets the replica go."""
        with self._lock:
            self.cancelled = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    return  # it has ended by itself


class Gateway:
    """The way to services and models. Thread-safe; asks the engine anew where the gateway is."""

    def __init__(self, client: Callable[[], Client]) -> None:
        """Make the way; *client* gives a client of the engine."""
        self._client = client

    def view(self) -> GatewayView:
        """Return where the gateway is; raise `Refused` while there is none."""
        view = self._client().gateway()
        if view.port is None:
            raise Refused(
                "No gateway runs yet: it is started with the first service.",
                hint="Start one: %%dstack service, and its configuration below.",
            )
        return view

    def token(self) -> Token:
        """Return the user's token."""
        return Token(self._client().token())

    def get(self, run: str, path: str, wish: Wish | None = None) -> Answer:
        """Ask the service *run* for *path*, by its own name; with our token.

        Raises `GatewayError`, `Refused`, and `Cancelled` once *wish* was.
        """
        wish = wish or Wish()
        host = f"{run}.localhost:{self.view().port}"
        begun = monotonic()
        with self._asked("GET", path, wish, headers={"Host": host}) as answer:
            seconds = monotonic() - begun
            with _translated(wish):
                body = answer.read(MAX_BODY + 1)
            wish.check()
            return Answer(
                answer.status,
                answer.reason,
                tuple(answer.getheaders()),
                body[:MAX_BODY],
                len(body) > MAX_BODY,
                seconds,
            )

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        wish: Wish | None = None,
        **options: object,
    ) -> Iterator[str]:
        """Yield a model's answer piece by piece, as it comes.

        *options* go into the request as they are (`temperature`, `max_tokens`). Raises
        `GatewayError` for what the model or the gateway refuses.
        """
        wish = wish or Wish()
        asked = {"model": model, "messages": list(messages), "stream": True, **options}
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        body = json.dumps(asked).encode()
        with self._asked("POST", "/v1/chat/completions", wish, body, headers) as answer:
            if answer.status != 200:
                raise _error_of(answer, model)
            with _translated(wish):
                yield from _pieces(answer, wish)

    def openai(self, **options: Any) -> OpenAI:
        """Return an `openai.OpenAI` of this gateway; *options* go to it and win."""
        made: OpenAI = self._made("OpenAI", "DefaultHttpxClient", options)
        return made  # its type is told here

    def openai_async(self, **options: Any) -> AsyncOpenAI:
        """Return an `openai.AsyncOpenAI` of this gateway; *options* go to it and win."""
        made: AsyncOpenAI = self._made("AsyncOpenAI", "DefaultAsyncHttpxClient", options)
        return made

    def _made(self, kind: str, http_kind: str, options: dict[str, Any]) -> Any:
        package = _openai()
        ours: dict[str, Any] = {}
        if "base_url" not in options:
            ours["base_url"] = self.view().models_url
        if "api_key" not in options:
            ours["api_key"] = self.token()
        if "http_client" not in options:
            # What stands in HTTP_PROXY is no way to this computer itself.
            ours["http_client"] = getattr(package, http_kind)(trust_env=False)
        return getattr(package, kind)(**{**ours, **options})

    def _asked(
        self,
        method: str,
        path: str,
        wish: Wish,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> closing[http.client.HTTPResponse]:
        port = self.view().port
        # A `Token`, too, so that no traceback with its variables shows it.
        sent = {"Authorization": Token(f"Bearer {self.token()}"), **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CONNECT_TIMEOUT)
        with _translated(wish):
            connection.connect()
            connection.sock.settimeout(ANSWER_TIMEOUT)
            wish.hold(connection.sock)
            sent["Connection"] = "close"
            connection.request(method, path, body, sent)
            return closing(connection.getresponse())


class _translated:
    """Turn what a connection raises into `GatewayError`, or `Cancelled` where that was wanted."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, (OSError, http.client.HTTPException, ValueError)):
            return
        if self._wish.cancelled:
            raise Cancelled from None
        if isinstance(error, ConnectionRefusedError):
            raise GatewayError(
                "The gateway does not answer; the engine starts it again. Try once more."
            ) from None
        if isinstance(error, TimeoutError):
            raise GatewayError(f"There was no answer within {ANSWER_TIMEOUT:.0f} s.") from None
        if isinstance(error, http.client.InvalidURL):
            raise GatewayError("A path has no spaces or control characters in it.") from None
        raise GatewayError(f"The answer broke off: {error or type(error).__name__}.") from None


def _pieces(answer: http.client.HTTPResponse, wish: Wish) -> Iterator[str]:
    if "event-stream" not in (answer.getheader("Content-Type") or ""):
        yield _whole(answer.read(MAX_LINE))
        return
    finished = False
    while line := answer.readline(MAX_LINE):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if error := event.get("error"):
            raise GatewayError(_words_of(error) or "The model's answer broke off.")
        for choice in event.get("choices") or ():
            finished = finished or bool(choice.get("finish_reason"))
            if text := (choice.get("delta") or {}).get("content"):
                yield text
    wish.check()
    if not finished:
        raise GatewayError("The model's answer broke off.")


def _whole(body: bytes) -> str:
    try:
        return str(json.loads(body)["choices"][0]["message"]["content"] or "")
    except (ValueError, LookupError, TypeError) as error:
        raise GatewayError("The model's answer is not one of OpenAI's form.") from error


def _error_of(answer: http.client.HTTPResponse, model: str) -> DstackError:
    body = answer.read(MAX_BODY)
    try:
        words = _words_of(json.loads(body).get("error"))
    except (ValueError, AttributeError):
        words = body.decode(errors="replace").strip()[:500]
    if answer.status == 404 and answer.getheader(OWN_ERROR):
        return NotFound(words or f"No service serves the model {model}.", hint="See %dstack models")
    return GatewayError(words or f"The model answered {answer.status} {answer.reason}.")


def _words_of(error: object) -> str:
    if isinstance(error, dict):
        return str(error.get("message") or "")
    return str(error or "")


def _openai() -> ModuleType:
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise Refused(
            "The package openai is not installed here.",
            hint="Install it: pip install 'dstack-jupyter[openai]'",
        ) from error
