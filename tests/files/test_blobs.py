"""From the user's folder to the engine's store and into working directories, whole."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dstack_engine.errors import Conflict, NotFound, Refused, StoreError, TooLarge
from dstack_engine.files.blobs import BlobStore
from dstack_engine.files.manifest import Entry, EntryKind, FileLimits, encode_manifest
from dstack_engine.files.stored import StoredFiles
from dstack_engine.files.tree import Tree, scan_project
from dstack_engine.files.uploads import upload_tree
from dstack_engine.files.wire import END
from dstack_engine.home import Home
from dstack_engine.hosts.base import Files
from tests.files.projects import write

AT_ONCE = timedelta(0)


@pytest.fixture
def store() -> BlobStore:
    return BlobStore(Home.of_user().make())


class Overheard:
    """A receiver that hands everything on and notes what was sent; it may meddle in between."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.streams: list[bytes] = []

    def missing(self, manifest: bytes) -> list[str]:
        return self.store.missing(manifest)

    def receive(self, chunks: Iterable[bytes]) -> list[str]:
        self.streams.append(b"".join(chunks))
        return self.store.receive([self.streams[-1]])

    def keep_tree(self, manifest: bytes) -> str:
        return self.store.keep_tree(manifest)


def frame(content: bytes, digest: str | None = None) -> bytes:
    name = digest or hashlib.sha256(content).hexdigest()
    return bytes.fromhex(name) + len(content).to_bytes(8, "big") + content


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Return all that lies in *folder*: content, symlink's target, or None for a folder."""
    found: dict[str, bytes | str | None] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


@pytest.fixture
def sent(store: BlobStore, project: Path) -> StoredFiles:
    """A project with everything in it, in the store."""
    write(project, {"a.py": "print()", "sub/run.sh": "#!", "sub/empty": "", "big": bytes(300_000)})
    write(project, {f"deep/{'long' * 30}/file": "long", os.fsdecode(b"na\xffme"): "raw"})
    (project / "sub" / "run.sh").chmod(0o755)
    (project / "link").symlink_to("sub/run.sh")
    (project / "none").mkdir()
    return store.files(upload_tree(scan_project(project), store).digest)


def test_a_working_directory_is_the_project_again_as_files_of_its_own(
    sent: StoredFiles, project: Path, tmp_path: Path
) -> None:
    files: Files = sent
    files.copy_to(tmp_path / "work")
    assert contents(tmp_path / "work") == contents(project)
    modes = {
        n: stat.S_IMODE((tmp_path / "work" / n).stat().st_mode) for n in ("a.py", "sub/run.sh")
    }
    assert modes == {"a.py": 0o644, "sub/run.sh": 0o755}
    (tmp_path / "work" / "a.py").write_text("changed by the job")
    files.copy_to(tmp_path / "other")
    assert contents(tmp_path / "other") == contents(project)


def test_a_copy_begun_before_a_crash_is_finished_by_a_repeat_and_never_leaves_its_folder(
    sent: StoredFiles, project: Path, tmp_path: Path
) -> None:
    outside = write(tmp_path / "outside", {"run.sh": "mine"})
    work = write(tmp_path / "work", {"a.py": "half", "link/x": "a folder in the way"})
    (work / "sub").symlink_to(outside)
    sent.copy_to(work)
    assert contents(work) == contents(project)
    assert contents(outside) == {"run.sh": b"mine"}


def test_the_tar_is_the_project_again(sent: StoredFiles, project: Path, tmp_path: Path) -> None:
    packed = io.BytesIO()
    sent.write_tar(packed)
    packed.seek(0)
    with tarfile.open(fileobj=packed, mode="r:", errors="surrogateescape") as tar:
        members = {member.name: member for member in tar}
        tar.extractall(tmp_path / "work", filter="fully_trusted")
    assert contents(tmp_path / "work") == contents(project)
    assert (members["sub/run.sh"].mode, members["sub"].mode) == (0o755, 0o755)
    assert {member.uid for member in members.values()} == {0}


def test_an_unchanged_project_is_not_sent_twice_and_a_changed_one_only_where_it_changed(
    store: BlobStore, project: Path
) -> None:
    write(project, {"a": bytes(100_000), "copy-of-a": bytes(100_000), "b": "1"})
    wire = Overheard(store)
    progress: list[tuple[int, int]] = []
    upload_tree(scan_project(project), wire, lambda *seen: progress.append(seen))
    assert progress[-1] == (100_001, 100_001)
    upload_tree(scan_project(project), wire)
    write(project, {"b": "2"})
    upload_tree(scan_project(project), wire)
    assert [len(stream) for stream in wire.streams] == [100_001 + 3 * 40, 1 + 2 * 40]


@pytest.mark.parametrize("change", ["shorter", "longer, but begins the same", "gone", "other text"])
def test_a_file_that_changes_between_scan_and_upload_is_sent_as_it_is_then(
    store: BlobStore, project: Path, tmp_path: Path, change: str
) -> None:
    write(project, {"a": "content", "b": "still"})
    tree = scan_project(project)
    expected: dict[str, bytes] = {"a": b"content", "b": b"still"}
    match change:
        case "gone":
            (project / "a").unlink()
            del expected["a"]
        case "longer, but begins the same":
            write(project, {"a": "content and more"})
        case _:
            write(project, {"a": change})
            expected["a"] = change.encode()
    sent = upload_tree(tree, store)
    store.files(sent.digest).copy_to(tmp_path / "work")
    assert contents(tmp_path / "work") == expected
    assert any("went away" in remark for remark in sent.remarks) == (change == "gone")


def test_a_file_that_never_holds_still_is_refused_by_name(store: BlobStore, project: Path) -> None:
    write(project, {"restless": "0", "b": "1"})

    class Restless(Overheard):
        def missing(self, manifest: bytes) -> list[str]:
            write(project, {"restless": os.urandom(9)})
            return super().missing(manifest)

    with pytest.raises(Refused, match="again and again while they were sent: restless"):
        upload_tree(scan_project(project), Restless(store))


def test_what_does_not_match_its_digest_is_not_kept(store: BlobStore) -> None:
    wrong = hashlib.sha256(b"right").hexdigest()
    stream = frame(b"wrong", wrong) + frame(b"good") + END
    assert store.receive(stream[i : i + 7] for i in range(0, len(stream), 7)) == [wrong]
    rows = [Entry(n, EntryKind.FILE, 0o644, len(n), hashlib.sha256(n.encode()).hexdigest())
            for n in ("good", "right")]  # fmt: skip
    assert store.missing(encode_manifest(rows)) == [wrong]
    with pytest.raises(Conflict, match="1 of the project's files are not uploaded"):
        store.keep_tree(encode_manifest(rows))


@pytest.mark.parametrize("cut", [0, 20, 42, 45])
def test_a_stream_cut_short_is_refused_and_leaves_nothing_half(store: BlobStore, cut: int) -> None:
    with pytest.raises(Refused, match="ended too early"):
        store.receive([frame(b"content")[:cut]])
    assert [path for path in Home.of_user().files.rglob("*") if path.is_file()] == []


def test_more_than_the_limits_is_refused_while_it_streams(store: BlobStore) -> None:
    small = BlobStore(Home.of_user(), FileLimits(max_files=3, max_bytes=1000))

    def endless() -> Iterator[bytes]:
        yield frame(bytes(900))
        yield (b"\1" * 32) + (1 << 62).to_bytes(8, "big")
        raise AssertionError("read on behind the limit")

    with pytest.raises(TooLarge, match="1 kB"):
        small.receive(endless())
    with pytest.raises(TooLarge):
        small.receive([frame(b"1") + frame(b"2") + frame(b"3") + frame(b"4") + END])


def row(
    path: str, kind: str = "file", mode: int = 0o644, size: int = 0, rest: str = "0" * 64
) -> str:
    return f'["{path}","{kind}",{mode},{size},"{rest}"]'


@pytest.mark.parametrize(
    "rows",
    [
        row("../a"), row("/a"), row("a/../b"), row("a//b"), row("./a"), row(""), row("a/"),
        row("a\\u0000"), row("n" * 256), row("/".join(["n" * 200] * 21)),
        row("a", mode=0o4755), row("a", size=-1), row("a", rest="zz"), row("a", kind="device"),
        row("l", "symlink", 0o755, 0, ""), row("l", "symlink", 0o755, 5, "x"),
        row("a") + "," + row("a"), row("b") + "," + row("a"), row("a") + "," + row("a/b"),
        row("l", "symlink", 0o755, 0, "/etc") + "," + row("l/passwd"),
        row("a", size=10**30), row("a").replace(",", ", "), "[" * 100_000, "1", "[]",
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_refused_with_a_sentence(store: BlobStore, rows: str) -> None:
    with pytest.raises(Refused, match=r"list|listed|lies below"):
        store.missing(f'{{"version":1,"entries":[{rows}]}}'.encode())


def test_a_manifest_above_the_limits_is_refused(store: BlobStore) -> None:
    with pytest.raises(TooLarge, match="10 GB are more than the 512 MB allowed"):
        store.missing(f'{{"version":1,"entries":[{row("a", size=10**10)}]}}'.encode())


def test_unknown_files_are_not_found(store: BlobStore) -> None:
    for digest in ("0" * 64, "../../engine.json", ""):
        with pytest.raises(NotFound):
            store.files(digest)


def test_a_content_damaged_on_disk_is_said_and_sent_again(
    store: BlobStore, project: Path, tmp_path: Path
) -> None:
    write(project, {"a": "content"})
    tree = upload_tree(scan_project(project), store)
    blob = Home.of_user().files / "blobs" / tree.entries[0].digest[:2] / tree.entries[0].digest[2:]
    blob.write_bytes(b"")
    with pytest.raises(StoreError, match="the content of a is damaged"):
        store.files(tree.digest).copy_to(tmp_path / "work")
    upload_tree(tree, store)
    store.files(tree.digest).copy_to(tmp_path / "work")
    assert contents(tmp_path / "work") == {"a": b"content"}


def test_pruning_keeps_what_runs_need_and_gives_back_the_rest(
    store: BlobStore, project: Path, tmp_path: Path
) -> None:
    write(project, {"shared": "s" * 1000, "old": "o" * 1000})
    old = upload_tree(scan_project(project), store)
    (project / "old").unlink()
    write(project, {"new": "n" * 1000})
    new = upload_tree(scan_project(project), store)
    assert store.prune({new.digest}) == 0  # all too young: a submit may be on its way
    assert store.prune({new.digest}, grace=AT_ONCE) == 1000 + len(old.manifest)
    store.files(new.digest).copy_to(tmp_path / "work")
    with pytest.raises(NotFound):
        store.files(old.digest)
    assert store.prune(set(), grace=AT_ONCE) == 2000 + len(new.manifest)
    assert [p.name for p in Home.of_user().files.rglob("*") if p.is_file()] == ["lock"]


def test_what_an_upload_counts_on_is_not_pruned_under_it(store: BlobStore, project: Path) -> None:
    write(project, {"a": "content"})
    tree = upload_tree(scan_project(project), store)
    long_ago = (1, 1)
    for path in Home.of_user().files.rglob("*"):
        os.utime(path, long_ago)
    assert store.missing(tree.manifest) == []
    assert store.prune(set()) == len(tree.manifest)
    assert store.keep_tree(tree.manifest) == tree.digest


def test_an_upload_that_is_pruned_all_the_same_is_sent_again(
    store: BlobStore, project: Path
) -> None:
    write(project, {"a": "content"})

    class Pruned(Overheard):
        def keep_tree(self, manifest: bytes) -> str:
            if len(self.streams) == 1:
                self.store.prune(set(), grace=AT_ONCE)
            return super().keep_tree(manifest)

    wire = Pruned(store)
    tree = upload_tree(scan_project(project), wire)
    assert len(wire.streams) == 2
    assert store.files(tree.digest).entries == tree.entries


def test_many_uploads_of_the_same_files_at_once_do_not_disturb_each_other(
    project: Path, tmp_path: Path
) -> None:
    write(project, {f"d{n % 7}/{n}": f"content {n}" for n in range(100)})
    home = Home.of_user().make()
    done: list[Tree] = []
    threads = [
        threading.Thread(
            target=lambda: done.append(upload_tree(scan_project(project), BlobStore(home)))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({tree.digest for tree in done}) == 1
    assert len(done) == 8
    BlobStore(home).files(done[0].digest).copy_to(tmp_path / "work")
    assert contents(tmp_path / "work") == contents(project)


def test_everything_in_the_store_is_the_users_alone(sent: StoredFiles) -> None:
    modes = {p.is_dir(): stat.S_IMODE(p.stat().st_mode) for p in Home.of_user().files.rglob("*")}
    assert modes == {True: 0o700, False: 0o600}
