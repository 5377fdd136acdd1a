"""A tree brought to the engine: what is missing there is asked, then sent in one stream.

The client calls `upload_tree` with its view of the engine's store; `files.blobs.BlobStore` itself
is such a receiver, so the two ends can be put together without a wire between them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from dstack_engine.errors import Conflict, Refused
from dstack_engine.files.hashes import open_file
from dstack_engine.files.listing import some_of
from dstack_engine.files.tree import Progress, Tree, no_progress, scan_again
from dstack_engine.files.wire import gather, write_frame

#: Files that change while they are sent are read anew and sent again so often.
ROUNDS = 4


class Receiver(Protocol):
    """The engine's store, or the client's view of it; every method may be repeated."""

    def missing(self, manifest: bytes) -> Sequence[str]:
        """Return the digests that the engine does not have. Raises `Refused`, `TooLarge`."""

    def receive(self, chunks: Iterable[bytes]) -> Sequence[str]:
        """Take a stream of frames; return the digests that did not match what came."""

    def keep_tree(self, manifest: bytes) -> str:
        """Keep the manifest, whose contents are all there; return its digest.

        Raises `Conflict` when some are not.
        """


def upload_tree(tree: Tree, receiver: Receiver, on_progress: Progress = no_progress) -> Tree:
    """Bring the tree to the engine; return it as it was sent: its digest is the run's `files`.

    A file that changed since the scan is read anew. *on_progress* hears of the bytes to be sent.
    Raises `Refused` for a file that does not hold still, and what *receiver* raises.
    """
    changed: Sequence[str] = ()
    for _ in range(ROUNDS):
        wanted = set(receiver.missing(tree.manifest))
        if not wanted:
            with contextlib.suppress(Conflict):  # pruned since it was asked
                receiver.keep_tree(tree.manifest)
                return tree
            continue
        sending = _Sending(tree, wanted, on_progress)
        dropped = receiver.receive(gather(sending.pieces(), sending.count))
        bad = sending.unread.union(dropped)
        changed = [entry.path for entry in tree.entries if entry.digest in bad]
        tree = scan_again(tree, changed) if changed else tree
    if not changed:
        raise Conflict("the engine does not hold on to the project's files; submit again")
    raise Refused(
        f"the project's files changed again and again while they were sent: {some_of(changed)}",
        hint="Name what is written all the time in .dstackignore, or submit when it is quiet.",
    )


class _Sending:
    """One stream on its way: one file for each digest that is wanted."""

    def __init__(self, tree: Tree, wanted: set[str], on_progress: Progress) -> None:
        self._root = tree.root
        self._files = {entry.digest: entry for entry in tree.entries if entry.digest in wanted}
        self._on_progress = on_progress
        self._sent, self._total = 0, sum(entry.size for entry in self._files.values())
        #: Digests whose files could not be opened any more.
        self.unread: set[str] = set()

    def pieces(self) -> Iterator[bytes]:
        """Yield the frames of all files that can still be opened."""
        for entry in self._files.values():
            try:
                descriptor = open_file(f"{self._root}/{entry.path}")
            except OSError:
                self.unread.add(entry.digest)
                continue
            try:
                yield from write_frame(entry.digest, entry.size, descriptor)
            finally:
                os.close(descriptor)

    def count(self, sent: int) -> None:
        """Report that *sent* more bytes were taken; frames' headers do not count for much."""
        self._sent = min(self._sent + sent, self._total)
        self._on_progress(self._sent, self._total)
