"""A project's files as they are now: scanned, hashed, and ready to be sent.

The client calls `scan_project` before it submits a run. What did not change since the last scan
is not read again. The engine never looks into the user's folder itself.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISLNK, S_ISREG

from dstack_engine.errors import NotFound, Refused, TooLarge
from dstack_engine.files.hashes import HashMemory, read_content
from dstack_engine.files.listing import HINT, IsIgnored, Listing, some_of
from dstack_engine.files.manifest import (
    FILE_MODE,
    PROGRAM_MODE,
    PROJECT_LIMITS,
    Entry,
    EntryKind,
    FileLimits,
    digest_of,
    encode_manifest,
    leads_out,
    show_path,
    show_size,
)
from dstack_engine.files.worktree import (
    GitFailed,
    find_work_tree,
    is_ignored_by_git,
    list_work_tree,
)
from dstack_engine.home import Home

#: Called with the bytes done and the bytes in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tree:
    """A project at one moment."""

    root: Path
    #: Sorted by path.
    entries: tuple[Entry, ...] = field(repr=False)
    limits: FileLimits = PROJECT_LIMITS
    #: What a person should know: files left out, symlinks that lead out of the project.
    remarks: tuple[str, ...] = ()
    manifest: bytes = field(init=False, repr=False)
    #: Names exactly these files: the run's `files`.
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifest", encode_manifest(self.entries))
        object.__setattr__(self, "digest", digest_of(self.manifest))

    @property
    def size(self) -> int:
        """Return the bytes of all files together."""
        return sum(entry.size for entry in self.entries)


def no_progress(done: int, total: int) -> None:
    """Take a report of progress and do nothing with it."""


def scan_project(
    root: Path,
    *,
    limits: FileLimits = PROJECT_LIMITS,
    on_progress: Progress = no_progress,
    home: Home | None = None,
) -> Tree:
    """Return all files of the project at *root*, uncommitted changes included.

    *on_progress* hears of the bytes that have to be read. Raises `NotFound` without a folder
    there, `Refused` for a folder that is no project (a home, the root), `TooLarge` above *limits*
    before anything is read.
    """
    root, home = _project_folder(root), home or Home.of_user()
    listing = _list_project(root, limits, home)
    _check_size(listing, limits)
    symlinks, files, odd = _sort_out(listing)
    memory = HashMemory(home.cache / "hashes", root)
    entries = _hash_files(root, files, memory, on_progress, listing.unread)
    memory.save()
    entries += symlinks
    entries += [Entry(path, EntryKind.FOLDER, PROGRAM_MODE) for path in listing.empty_folders]
    entries.sort(key=lambda entry: entry.path)
    return Tree(root, tuple(entries), limits, _remarks(listing, symlinks, odd))


def scan_again(tree: Tree, paths: Iterable[str]) -> Tree:
    """Return *tree* with the files at *paths* read anew; those that are gone are left out.

    Raises `TooLarge` when they have grown above the tree's limits.
    """
    wanted, gone = set(paths), []
    entries = []
    for entry in tree.entries:
        if entry.path not in wanted:
            entries.append(entry)
            continue
        try:
            entries.append(_read_entry(tree.root, entry.path, entry.mode))
        except OSError:
            gone.append(entry.path)
    remarks = [*tree.remarks]
    if gone:
        remarks.append(f"files that went away meanwhile are left out: {some_of(gone)}")
    again = Tree(tree.root, tuple(entries), tree.limits, tuple(remarks))
    if again.size > tree.limits.max_bytes:
        raise _too_large({e.path: e.size for e in again.entries}, tree.limits)
    return again


def _project_folder(root: Path) -> Path:
    """Return the project's folder; refuse what nobody means to send."""
    try:
        folder = root.expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise NotFound(f"the project's folder {root} cannot be found: {error}") from error
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder; a project is one")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise Refused(f"{folder} cannot be read, so it cannot be sent")
    personal = Path.home().resolve()
    hint = "Work in a folder of the project's own, or submit without files (--no-files)."
    if folder == personal:
        raise Refused(f"{folder} is your home folder, not a project; it is not sent", hint=hint)
    if folder in personal.parents:
        raise Refused(f"{folder} holds everybody's files, not a project's", hint=hint)
    return folder


def _list_project(root: Path, limits: FileLimits, home: Home) -> Listing:
    """Ask git what belongs to the project; walk where there is no git, or no answer."""
    engine_home = home.root.resolve()
    left_out = [engine_home.relative_to(root).as_posix()] if root in engine_home.parents else []
    top = find_work_tree(root)
    failure = None
    try:
        if top is not None and (top == root or not is_ignored_by_git(root)):
            return list_work_tree(
                root,
                max_files=limits.max_files,
                left_out=left_out,
                read_ignores=lambda folders: _read_ignores(root, folders),
            )
        top = None
    except (GitFailed, OSError) as error:
        failure = error

    # pathspec takes 50 ms to import, and most projects are git's.
    from dstack_engine.files.walking import walk  # noqa: PLC0415

    listing = walk(root, top=top, max_files=limits.max_files, left_out=left_out)
    if isinstance(failure, GitFailed):
        listing.remarks.append(f"git could not list the project, .gitignore did: {failure}")
    return listing


def _read_ignores(root: Path, folders: list[str]) -> IsIgnored:
    from dstack_engine.files.walking import read_dstackignores  # noqa: PLC0415 -- as above

    return read_dstackignores(root, folders)


def _check_size(listing: Listing, limits: FileLimits) -> None:
    sizes = {path: s.st_size for path, s in listing.found.items() if S_ISREG(s.st_mode)}
    if sum(sizes.values()) > limits.max_bytes:
        raise _too_large(sizes, limits)


def _too_large(sizes: dict[str, int], limits: FileLimits) -> TooLarge:
    """Return the refusal that names the biggest files and folders."""
    folders: Counter[str] = Counter()
    for path, size in sizes.items():
        if "/" in path:
            folders[f"{path.partition('/')[0]}/"] += size
    named = [*folders.most_common(3), *Counter(sizes).most_common(5)]
    biggest = ", ".join(f"{show_path(path)} ({show_size(size)})" for path, size in named)
    total = show_size(sum(sizes.values()))
    return TooLarge(
        f"the project's files are {total}, more than the {show_size(limits.max_bytes)} that are "
        f"sent; the biggest: {biggest}",
        hint=HINT,
    )


def _sort_out(
    listing: Listing,
) -> tuple[list[Entry], list[tuple[str, os.stat_result]], list[str]]:
    """Return the symlinks as entries, the files still to be read, and what is neither."""
    symlinks, files, odd = [], [], []
    for path, status in listing.found.items():
        if S_ISREG(status.st_mode):
            files.append((path, status))
        elif not S_ISLNK(status.st_mode):
            odd.append(path)
        else:
            try:
                target = os.readlink(f"{listing.root}/{path}")  # noqa: PTH115 -- as it is written
            except OSError:
                listing.unread.append(path)
                continue
            symlinks.append(Entry(path, EntryKind.SYMLINK, PROGRAM_MODE, target=target))
    return symlinks, files, odd


def _hash_files(
    root: Path,
    files: Sequence[tuple[str, os.stat_result]],
    memory: HashMemory,
    on_progress: Progress,
    unread: list[str],
) -> list[Entry]:
    entries, unknown = [], []
    for path, status in files:
        digest = memory.find(path, status)
        if digest is None:
            unknown.append((path, status))
        else:
            mode = _mode(status)
            entries.append(Entry(path, EntryKind.FILE, mode, status.st_size, digest))

    done, total = 0, sum(status.st_size for _, status in unknown)

    def count(bytes_read: int) -> None:
        nonlocal done
        done += bytes_read
        on_progress(min(done, total), total)

    for path, status in unknown:
        try:
            content = read_content(f"{root}/{path}", count)
        except OSError:
            unread.append(path)
            continue
        memory.keep(path, content)
        entries.append(Entry(path, EntryKind.FILE, _mode(status), content.size, content.digest))
    return entries


def _read_entry(root: Path, path: str, mode: int) -> Entry:
    content = read_content(f"{root}/{path}", lambda _: None)
    return Entry(path, EntryKind.FILE, mode, content.size, content.digest)


def _mode(status: os.stat_result) -> int:
    return PROGRAM_MODE if status.st_mode & 0o100 else FILE_MODE


def _remarks(listing: Listing, symlinks: Sequence[Entry], odd: Sequence[str]) -> tuple[str, ...]:
    remarks = list(listing.remarks)
    out = [e.path for e in symlinks if leads_out(e.path, e.target)]
    if out:
        remarks.append(f"symlinks that lead out of the project lead nowhere there: {some_of(out)}")
    if listing.unread:
        remarks.append(f"what cannot be read is left out: {some_of(listing.unread)}")
    if odd:
        remarks.append(f"neither files nor folders, so left out: {some_of(odd)}")
    return tuple(remarks)
