"""Tars on their way into a container: whose their entries will be.

The Docker Engine can give entries to a container's user by itself, but then looks the user up on
its own machine. So the user is looked up in the image, and written into each header as it passes.
Called by the Docker host's `start`.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import RawIOBase
from typing import TYPE_CHECKING, BinaryIO, cast

from docker import APIClient
from docker.errors import NotFound

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_BLOCK = 512
_UID, _GID, _SIZE, _CHECKSUM = slice(108, 116), slice(116, 124), slice(124, 136), slice(148, 156)
#: A passwd file larger than this is not read on.
_PASSWD_LIMIT = 1 << 20


@dataclass(frozen=True)
class Owner:
    """Whose a file is, by number."""

    uid: int = 0
    gid: int = 0


def owner_of(api: APIClient, container: str, user: str) -> Owner:
    """Return who *user* (``name``, ``uid``, either with ``:group``) is in the container's image.

    Whom the image does not know is taken for root; starting the container will tell.
    """
    name, _, group = user.partition(":")
    owner = Owner(int(name), 0) if name.isdecimal() else Owner()
    for fields in _table(api, container, "/etc/passwd"):
        if len(fields) > 3 and name in (fields[0], fields[2]):
            owner = Owner(int(fields[2]), int(fields[3]))
            break
    if group.isdecimal():
        return Owner(owner.uid, int(group))
    for fields in _table(api, container, "/etc/group") if group else ():
        if len(fields) > 2 and fields[0] == group:
            return Owner(owner.uid, int(fields[2]))
    return owner


def _table(api: APIClient, container: str, path: str) -> Iterator[list[str]]:
    try:
        chunks, stat = api.get_archive(container, path)
    except NotFound:
        return
    if stat["size"] > _PASSWD_LIMIT:
        return
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        entry = tar.getmembers()[0]
        file = tar.extractfile(entry) if entry.isreg() else None
        text = file.read().decode(errors="replace") if file else ""
    for line in text.splitlines():
        yield line.strip().split(":")


def owned(write: Callable[[BinaryIO], None], owner: Owner) -> Callable[[BinaryIO], None]:
    """Return what writes the tar that *write* writes, its entries made *owner*'s."""
    return lambda target: write(cast(BinaryIO, OwnedTar(target, owner)))


class OwnedTar(RawIOBase):
    """Passes a tar on to *target*, each of its entries made *owner*'s."""

    def __init__(self, target: BinaryIO, owner: Owner) -> None:
        self._target = target
        self._owner = owner
        self._header = b""
        #: Bytes of content until the next header.
        self._content = 0
        self._passed = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._passed

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        rest = view
        while rest:
            if self._content:
                taken = min(self._content, len(rest))
                self._target.write(rest[:taken])
                self._content -= taken
            else:
                taken = min(_BLOCK - len(self._header), len(rest))
                self._header += bytes(rest[:taken])
                if len(self._header) == _BLOCK:
                    self._pass_header(bytearray(self._header))
                    self._header = b""
            rest = rest[taken:]
        self._passed += len(view)
        return len(view)

    def _pass_header(self, header: bytearray) -> None:
        if any(header):  # The end of a tar is blocks of zeros.
            self._content = -(-_number(header[_SIZE]) // _BLOCK) * _BLOCK
            header[_UID] = b"%07o\0" % self._owner.uid
            header[_GID] = b"%07o\0" % self._owner.gid
            header[_CHECKSUM] = b" " * 8
            header[_CHECKSUM] = b"%06o\0 " % sum(header)
        self._target.write(header)


def _number(field: bytes | bytearray) -> int:
    """Return a header's number: octal digits, or binary after a set first bit."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.strip(b" \0") or b"0", 8)
