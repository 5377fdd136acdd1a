"""Fetching an image: one progress for all its layers, and a refusal in words one can act on.

Called by the Docker host's `prepare`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from docker import APIClient
from docker.errors import APIError, NotFound
from docker.utils import parse_repository_tag

from dstack_engine.errors import DiskFull, HostError, ImageUnavailable
from dstack_engine.hosts.base import ProgressSink, RegistryAuth
from dstack_engine.hosts.docker_errors import explanation, host_error

#: The sink is told this often at most, in seconds.
TELL_EVERY = 0.1
#: Of a whole pull, how much is the download; unpacking overlaps with it and is shorter.
DOWNLOAD_SHARE = 0.8

_NETWORK = (
    "no such host",
    "temporary failure in name resolution",
    "server misbehaving",
    "dial tcp",
    "i/o timeout",
    "tls handshake timeout",
    "connection refused",
    "connection reset",
    "network is unreachable",
    "no route to host",
    "awaiting headers",
    "proxyconnect",
    "unexpected eof",
)
_REFUSED = ("unauthorized", "authentication required", "no basic auth", "incorrect username")
_HIDDEN = ("pull access denied", "denied: requested access", "access forbidden", "403 forbidden")
_MISSING = ("manifest unknown", "not found", "name unknown", "does not exist")


def has_image(api: APIClient, image: str) -> bool:
    """Tell whether the engine has *image*."""
    try:
        api.inspect_image(image)  # type: ignore[no-untyped-call]  # so in the stubs
    except NotFound:
        return False
    return True


def pull(api: APIClient, image: str, auth: RegistryAuth | None, progress: ProgressSink) -> None:
    """Fetch *image*, telling *progress*; return once it is here.

    Raises `ImageUnavailable` with what is wrong and what to do, `DiskFull`.
    """
    repository, tag = parse_repository_tag(image)
    auth_config = {"username": auth.username, "password": auth.password} if auth else None
    total = Pull()
    told = 0.0
    progress("pulling", None, "")
    for message in _pulled(api, repository, tag or "latest", auth_config, image, auth):
        if "error" in message:
            raise pull_error(image, str(message["error"]), auth)
        total.note(message)
        if monotonic() - told >= TELL_EVERY:
            told = monotonic()
            progress(total.step, total.fraction, total.text)
    progress("pulled", 1.0, total.text)


def _pulled(
    api: APIClient,
    repository: str,
    tag: str,
    auth_config: dict[str, str] | None,
    image: str,
    auth: RegistryAuth | None,
) -> Iterator[Mapping[str, Any]]:
    try:
        yield from api.pull(repository, tag, stream=True, decode=True, auth_config=auth_config)
    except APIError as error:
        raise pull_error(image, explanation(error), auth) from error


def pull_error(image: str, why: str, auth: RegistryAuth | None) -> HostError:
    """Return the error for a pull that failed with the engine's words *why*."""
    words = why.lower()
    if isinstance(full := host_error(why, f"pull {image}"), DiskFull):
        return full
    said = f"it said: {why.strip()}"
    if any(part in words for part in _REFUSED):
        return _refused(image, auth, said)
    if any(part in words for part in _HIDDEN):
        return ImageUnavailable(
            f"{image} does not exist, or its registry wants you to log in; {said}",
            hint="Check the name; for a private image give `registry_auth`.",
        )
    if any(part in words for part in _NETWORK):
        return ImageUnavailable(
            f"{image} cannot be pulled: the Docker Engine cannot reach its registry; {said}",
            hint="Check the network (and the proxy) of the Docker Engine, and the registry's name.",
        )
    if "no matching manifest" in words:
        return ImageUnavailable(f"{image} is not made for this computer's processor; {said}")
    if "toomanyrequests" in words:
        return ImageUnavailable(
            f"{image} cannot be pulled now: its registry has had too many requests; {said}",
            hint="Try later, or log in with `registry_auth`.",
        )
    if any(part in words for part in _MISSING):
        return ImageUnavailable(f"{image} does not exist in its registry; {said}")
    return ImageUnavailable(f"{image} cannot be pulled; its registry or the engine: {why.strip()}")


def _refused(image: str, auth: RegistryAuth | None, said: str) -> ImageUnavailable:
    if auth is None:
        return ImageUnavailable(
            f"{image} cannot be pulled: its registry wants a user name and a password; {said}",
            hint="Give them as `registry_auth`.",
        )
    return ImageUnavailable(
        f"{image} cannot be pulled: its registry does not take this user name and password; {said}",
        hint="Check `registry_auth`.",
    )


@dataclass
class Layer:
    """One layer of an image on its way: bytes, and whether each half is over."""

    total: int = 0
    downloaded: int = 0
    extracted: int = 0
    here: bool = False


@dataclass
class Pull:
    """The progress of all layers together; its fraction never goes back."""

    layers: dict[str, Layer] = field(default_factory=dict)
    _reached: float = 0.0

    def note(self, message: Mapping[str, Any]) -> None:
        """Take in one message of the engine."""
        status, name = str(message.get("status", "")), str(message.get("id", ""))
        if status in ("Pulling fs layer", "Waiting", "Already exists"):
            self.layers.setdefault(name, Layer())
        layer = self.layers.get(name)
        if layer is None:
            return
        detail = message.get("progressDetail") or {}
        current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
        layer.total = max(layer.total, total)
        if status == "Downloading":
            layer.downloaded = current
        elif status in ("Verifying Checksum", "Download complete"):
            layer.downloaded = layer.total
        elif status == "Extracting":
            layer.downloaded, layer.extracted = layer.total, current
        elif status in ("Pull complete", "Already exists"):
            layer.downloaded = layer.extracted = layer.total
            layer.here = True

    @property
    def step(self) -> str:
        """Return ``pulling``, or ``unpacking`` once all is downloaded."""
        waiting = [each for each in self.layers.values() if not each.here]
        done = all(each.total and each.downloaded >= each.total for each in waiting)
        return "unpacking" if waiting and done else "pulling"

    @property
    def fraction(self) -> float | None:
        """Return 0–1; None as long as no layer's size is known.

        A layer whose size is not known yet counts as much as the others' average.
        """
        known = [each for each in self.layers.values() if each.total]
        if not known:
            return None
        unknown = sum(1 for each in self.layers.values() if not each.total and not each.here)
        whole = sum(each.total for each in known) * (1 + unknown / len(known))
        downloaded = sum(each.downloaded for each in known)
        extracted = sum(each.extracted for each in known)
        now = (DOWNLOAD_SHARE * downloaded + (1 - DOWNLOAD_SHARE) * extracted) / whole
        self._reached = max(self._reached, min(now, 1.0))
        return self._reached

    @property
    def text(self) -> str:
        """Return ``1.2/3.4 GB``; 1 GB is 1024 MB."""
        known = [each for each in self.layers.values() if each.total]
        total = sum(each.total for each in known)
        if not total:
            return ""
        done = sum(each.downloaded for each in known)
        unit, factor = ("GB", 1 << 30) if total >= 1 << 30 else ("MB", 1 << 20)
        return f"{done / factor:.1f}/{total / factor:.1f} {unit}"
