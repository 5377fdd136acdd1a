"""What the Docker Engine's errors mean for us: which of our errors, in which sentence.

Used by every module of the Docker host around its calls; nobody else sees the docker SDK's errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

import requests.exceptions
import urllib3.exceptions
from docker.errors import APIError, DockerException

from dstack_engine.errors import (
    ContainerFailed,
    DiskFull,
    HostError,
    HostUnreachable,
    ImageUnavailable,
    PortTaken,
)

#: What a lost, refused or silent connection raises, whichever library met it.
CONNECTION_ERRORS = (
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    HTTPException,
    OSError,
)

_ADDRESS = re.compile(r"(?:\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]+\]):(\d+)")
_PORT_TAKEN = ("port is already allocated", "address already in use")
_NO_SPACE = ("no space left on device", "disk quota exceeded")
_GONE = "the Docker Engine at {host} does not answer: {why}"


@contextmanager
def translated(host: str, doing: str) -> Iterator[None]:
    """Turn what goes wrong inside into one of our errors.

    *host* is the engine's address, *doing* what was tried: ``start train-0-0-1``. `APIError` with
    status 404 or 409 means different things to different callers, who catch it inside.
    """
    try:
        yield
    except APIError as error:
        raise host_error(explanation(error), doing) from error
    except CONNECTION_ERRORS as error:
        raise unreachable(host, error) from error
    except DockerException as error:
        # The SDK wraps a refused first connection ("Error while fetching server API version").
        raise unreachable(host, error) from error


def unreachable(host: str, error: BaseException) -> HostUnreachable:
    """Return the error for an engine that does not answer."""
    if _caused_by(error, FileNotFoundError):
        why = "nothing listens there"
    elif _caused_by(error, PermissionError):
        hint = "Add yourself to the group `docker` (then log in again), or run as root."
        return HostUnreachable(_GONE.format(host=host, why="you may not use it"), hint=hint)
    elif _caused_by(error, ConnectionRefusedError):
        why = "the connection was refused"
    elif _caused_by(error, TimeoutError) or isinstance(error, requests.exceptions.Timeout):
        why = "no answer in time"
    else:
        why = f"the connection was lost ({_first_line(str(error)) or type(error).__name__})"
    return HostUnreachable(_GONE.format(host=host, why=why))


def host_error(why: str, doing: str) -> HostError:
    """Return the error that the engine's own words *why* stand for."""
    if any(words in why for words in _NO_SPACE):
        return DiskFull(
            f"cannot {doing}: the disk of the Docker Engine is full",
            hint="Free space with `docker system prune`, or remove old runs.",
        )
    if any(words in why for words in _PORT_TAKEN):
        port = _ADDRESS.search(why)
        which = f"port {port[1]}" if port else "a port"
        return PortTaken(f"cannot {doing}: {which} is already used on this computer")
    if "No such image" in why:
        return ImageUnavailable(f"cannot {doing}: {_first_line(why)}")
    if "No command specified" in why:
        return ContainerFailed(
            f"cannot {doing}: the image has no command of its own",
            hint="Say in `commands` what to run.",
        )
    if "could not select device driver" in why:
        return ContainerFailed(
            f"cannot {doing}: the Docker Engine cannot give GPUs to containers",
            hint="Install the NVIDIA Container Toolkit and restart the Docker Engine.",
        )
    return ContainerFailed(f"cannot {doing}: {_first_line(why)}")


def explanation(error: APIError) -> str:
    """Return the engine's own words."""
    return str(error.explanation or error)


def _caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    """Tell whether *kind* is somewhere in what led to *error*; libraries wrap it in many ways."""
    seen: list[BaseException] = [error]
    for one in seen:
        if isinstance(one, kind):
            return True
        inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        seen += [each for each in inner if isinstance(each, BaseException) and each not in seen]
    return False


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:500]
