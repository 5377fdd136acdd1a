"""The connection to a home's engine: finds it, asks with its token, and reads its errors.

Called by `client`, from many threads. An engine that was restarted on another port is found again.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter

from dstack_engine.address import EngineAddress, find_engine, no_engine
from dstack_engine.errors import (
    ConfigurationError,
    DstackError,
    EngineError,
    EngineUnauthorized,
    Problem,
    error_from_wire,
)
from dstack_engine.home import Home

T = TypeVar("T")


class Leash:
    """Holds an answer that goes on, so that another thread can end it at once."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_cut = False

    def cut(self) -> None:
        """End the answer that is held, and every later one; may be called twice."""
        with self._lock:
            self.is_cut = True
            if self._socket is not None:
                # Closing it would not wake who reads from it; this does.
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def holding(self, answer: httpx.Response) -> Iterator[None]:
        """Hold *answer* while it is read."""
        with self._lock:
            self._socket = answer.extensions["network_stream"].get_extra_info("socket")
        try:
            if self.is_cut:
                self.cut()
            yield
        finally:
            with self._lock:
                self._socket = None


#: Seconds to wait for an answer; an engine that is busy with 50 runs answers in well under one.
TIMEOUT = httpx.Timeout(60.0, connect=5.0)

#: The same for an endless answer: the engine says something every 15 s.
STREAM_TIMEOUT = httpx.Timeout(5.0, read=45.0)


class Connection:
    """How one client asks the engine of *home*."""

    def __init__(self, home: Home) -> None:
        """Ask nothing of the engine yet."""
        self._home = home
        self._http = httpx.Client(timeout=TIMEOUT, trust_env=False)
        self._lock = threading.Lock()
        self._address: EngineAddress | None = None

    def close(self) -> None:
        """End every answer and connection; may be called twice."""
        self._http.close()

    def find(self) -> EngineAddress:
        """Return where the engine is, looked up when that is not known; raise `EngineDown`."""
        with self._lock:
            if self._address is None:
                self._address = find_engine(self._home)
            if self._address is None:
                raise no_engine()
            return self._address

    def ask(self, adapter: TypeAdapter[T], method: str, path: str, **arguments: Any) -> T:
        """Return the answer as *adapter* reads it; see `send`."""
        return adapter.validate_json(self.send(method, path, **arguments).content)

    def send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Return the whole answer; *arguments* are those of `httpx.Client.request`.

        Raises the error that the engine raised, `EngineDown`, or `EngineError`.
        """
        with self._translated():
            try:
                answer = self._http.request(method, self._url(path), **self._named(arguments))
            except (httpx.ConnectError, httpx.RemoteProtocolError):
                if not isinstance(arguments.get("content", b""), bytes):
                    raise
                self._forget()  # restarted on another port, perhaps
                answer = self._http.request(method, self._url(path), **self._named(arguments))
            _raise_for(answer)
            return answer

    @contextmanager
    def stream(
        self, method: str, path: str, *, leash: Leash | None = None, **arguments: Any
    ) -> Iterator[httpx.Response]:
        """Yield an answer whose body is still to come, and ends early if *leash* is cut.

        Otherwise as `send`.
        """
        with self._translated():
            try:
                answer = self._begin(method, path, arguments)
            except httpx.ConnectError:
                self._forget()  # restarted on another port, perhaps; nothing was asked yet
                answer = self._begin(method, path, arguments)
            with closing(answer):
                if answer.is_error:
                    answer.read()
                _raise_for(answer)
                with leash.holding(answer) if leash is not None else nullcontext():
                    yield answer

    def _begin(self, method: str, path: str, arguments: dict[str, Any]) -> httpx.Response:
        """Ask, and return the answer with its body still to come."""
        request = self._http.build_request(method, self._url(path), **self._named(arguments))
        return self._http.send(request, stream=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            self._forget()
            raise no_engine() from error
        except httpx.TimeoutException as error:
            raise EngineError("The engine did not answer in time; it may be busy.") from error
        except httpx.HTTPError as error:
            self._forget()
            raise EngineError(f"The engine's answer broke off ({error}).") from error

    def _forget(self) -> None:
        with self._lock:
            self._address = None

    def _url(self, path: str) -> str:
        return self.find().url + path

    def _named(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {**arguments, "headers": {"Authorization": f"Bearer {self.find().token}"}}


def lines(answer: httpx.Response) -> Iterator[str]:
    """Yield the lines of an answer as they come."""
    # httpx's own iter_lines is several times slower on long lines.
    rest = b""
    for chunk in answer.iter_raw():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()


def _raise_for(answer: httpx.Response) -> None:
    if not answer.is_error:
        return
    try:
        error = error_of(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        error = EngineError(f"The engine answered {answer.status_code}: {answer.text[:500]}")
    if answer.status_code == 401:
        error = EngineUnauthorized("The engine did not take our token.", hint="Run the cell again.")
    raise error


def error_of(body: dict[str, Any]) -> DstackError:
    """Return the error that the engine told."""
    if problems := body.get("problems"):
        return ConfigurationError([Problem(**problem) for problem in problems])
    return error_from_wire(body["code"], body["message"], body.get("hint"))
