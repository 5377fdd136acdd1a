"""Files as layers of an image: a beginning and what has changed since make the tree again."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_engine.errors import StoreError
from dstack_engine.files.blobs import BlobStore
from dstack_engine.files.layers import FileLayer, can_be_told, changes_between
from dstack_engine.files.manifest import Entry, EntryKind, folders_of
from dstack_engine.files.stored import StoredFiles
from dstack_engine.files.tree import scan_project
from dstack_engine.files.uploads import upload_tree
from dstack_engine.home import Home
from dstack_engine.hosts.base import TellsChanges
from tests.files.projects import write

pytestmark = pytest.mark.slow

Seen = dict[str, tuple[bytes, object]]


def tar_of(layer: FileLayer) -> bytes:
    target = io.BytesIO()
    layer.write_tar(target)
    return target.getvalue()


def applied(below: Seen, layer: bytes) -> Seen:
    """Return what a container sees with *layer* over what it saw, as overlay file systems do it."""
    seen = dict(below)
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        members = [(m, tar.extractfile(m) if m.isreg() else None) for m in tar.getmembers()]
        for member, _ in members:
            above, _, name = member.name.rpartition("/")
            if name.startswith(".wh."):
                gone = f"{above}/{name[4:]}"
                seen = {p: v for p, v in seen.items() if p != gone and not p.startswith(f"{gone}/")}
        for member, file in members:
            if member.name.rpartition("/")[2].startswith(".wh."):
                continue
            if not member.isdir():
                seen = {p: v for p, v in seen.items() if not p.startswith(f"{member.name}/")}
            content: object = file.read() if file else member.linkname
            seen[member.name] = (member.type, (content, member.mode))
    return seen


def an_entry(path: str, content: bytes, mode: int = 0o644) -> Entry:
    digest = hashlib.sha256(content).hexdigest()
    return Entry(path, EntryKind.FILE, mode, len(content), digest)


def layer_of(before: tuple[Entry, ...], after: tuple[Entry, ...]) -> FileLayer:
    changes = changes_between(before, after)
    return FileLayer("workflow", changes, 1000, lambda entry: iter([entry.size * b"x"]))


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> tuple[Entry, ...]:
    """Any tree: no name below one that is no folder."""
    chosen: dict[str, Entry] = {}
    for path in draw(st.sets(PATHS, max_size=8)):
        clash = any(p.startswith(f"{path}/") or path.startswith(f"{p}/") for p in chosen)
        if clash:
            continue
        kind = draw(st.sampled_from(EntryKind))
        if kind is EntryKind.FILE:
            chosen[path] = an_entry(path, draw(st.sampled_from([b"", b"1", b"2" * 600])))
        elif kind is EntryKind.SYMLINK:
            chosen[path] = Entry(path, kind, target=draw(NAMES))
        else:
            chosen[path] = Entry(path, kind)
    return tuple(chosen[path] for path in sorted(chosen))


@settings(max_examples=300, deadline=None)
@given(before=trees(), after=trees())
def test_a_beginning_and_its_changes_show_exactly_the_new_tree(
    before: tuple[Entry, ...], after: tuple[Entry, ...]
) -> None:
    whole = applied({}, tar_of(layer_of((), after)))
    changed = applied(applied({}, tar_of(layer_of((), before))), tar_of(layer_of(before, after)))
    assert changed == whole
    assert {path for path, (kind, _) in whole.items() if kind == tarfile.DIRTYPE} == {
        "workflow",
        *(f"workflow/{folder}" for folder in folders_of(after)),
    }


@settings(max_examples=100, deadline=None)
@given(before=trees(), after=trees())
def test_a_layer_is_as_long_as_it_says(before: tuple[Entry, ...], after: tuple[Entry, ...]) -> None:
    layer = layer_of(before, after)
    assert len(tar_of(layer)) == layer.size


def test_only_what_has_changed_is_in_the_layer_of_changes() -> None:
    kept, old, new = an_entry("data/large", b"x" * 9000), an_entry("a", b"1"), an_entry("a", b"2")
    changes = changes_between((old, kept), (new, kept))
    assert (changes.folders, changes.entries, changes.removed) == ((), (new,), ())


def test_a_folder_that_is_gone_is_taken_away_whole() -> None:
    before = (an_entry("a/b/c", b"1"), an_entry("a/b/d", b"1"), an_entry("a/e", b"1"))
    assert changes_between(before, before[2:]).removed == ("a/b",)


def test_names_that_mean_something_in_a_layer_cannot_be_told() -> None:
    assert not can_be_told([an_entry("a/.wh.b", b"1")])
    assert can_be_told([an_entry("a/b.wh.c", b"1")])


def kept(store: BlobStore, project: Path) -> StoredFiles:
    return store.files(upload_tree(scan_project(project), store).digest)


def test_files_of_a_store_tell_what_has_changed_since_an_earlier_tree(
    project: Path, tmp_path: Path
) -> None:
    store = BlobStore(Home(tmp_path / "home").make())
    long = "folder/" + "name" * 40
    first = kept(store, write(project, {"a": "1", "b": b"2" * 5000, long: "3"}))
    second = kept(store, write(project, {"a": "new"}))
    assert isinstance(second, TellsChanges)
    change = second.layer("workflow", since=first.digest)
    assert change is not None
    with tarfile.open(fileobj=io.BytesIO(tar_of(change))) as tar:
        assert tar.getnames() == ["workflow", "workflow/a"]
    whole = second.layer("workflow")
    assert whole is not None
    assert len(tar_of(whole)) == whole.size
    with tarfile.open(fileobj=io.BytesIO(tar_of(whole))) as tar:
        assert f"workflow/{long}" in tar.getnames()


def test_a_tree_that_is_not_known_any_more_is_nothing_to_begin_from(
    project: Path, tmp_path: Path
) -> None:
    store = BlobStore(Home(tmp_path / "home").make())
    files = kept(store, write(project, {"a": "1"}))
    assert files.layer("workflow", since="0" * 64) is None


def test_a_content_that_is_lost_is_told(project: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    files = kept(BlobStore(home), write(project, {"a": "1"}))
    for blob in (home.files / "blobs").rglob("*"):
        if blob.is_file():
            blob.unlink()
    layer = files.layer("workflow")
    assert layer is not None
    with pytest.raises(StoreError):
        layer.write_tar(io.BytesIO())
