"""Which files a scan of a project finds, and what it says of those it leaves."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dstack_engine.errors import NotFound, Refused, TooLarge
from dstack_engine.files import hashes
from dstack_engine.files.hashes import read_content
from dstack_engine.files.manifest import Entry, EntryKind, FileLimits
from dstack_engine.files.tree import Tree, scan_project
from dstack_engine.home import Home
from tests.files.projects import git, write


def paths(tree: Tree) -> list[str]:
    return [entry.path for entry in tree.entries]


def entry_of(tree: Tree, path: str) -> Entry:
    return next(entry for entry in tree.entries if entry.path == path)


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files written just now count as quiet for long."""
    monkeypatch.setattr(hashes, "RACY", -(10**18))


def test_in_a_git_work_tree_changes_not_committed_go_along_and_ignored_files_do_not(
    repository: Path,
) -> None:
    write(repository, {".gitignore": "*.log\n/data\n", "train.py": "old", "gone.py": ""})
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    write(repository, {"train.py": "new", "new.py": "", "a.log": "", "data/big": "", "s/x.log": ""})
    (repository / "gone.py").unlink()
    tree = scan_project(repository)
    assert paths(tree) == [".gitignore", "new.py", "train.py"]
    assert entry_of(tree, "train.py").size == len("new")
    assert tree.remarks == ()


def test_without_git_nested_gitignore_files_are_followed_like_git_does(project: Path) -> None:
    files = {
        ".gitignore": "*.log\n/only-here\nbuild/\nkeep/*\n!keep/this\n",
        "a.log": "",
        "only-here": "",
        "sub/only-here": "",
        "sub/.gitignore": "!important.log\nlocal\n",
        "sub/important.log": "",
        "sub/local": "",
        "local": "",
        "build/x": "",
        "sub/build/x": "",
        "keep/this": "",
        "keep/that": "",
    }
    write(project, dict(files))
    walked = paths(scan_project(project))
    git(project, "init")
    assert paths(scan_project(project)) == walked
    assert walked == [
        ".gitignore", "keep/this", "local", "sub/.gitignore", "sub/important.log", "sub/only-here",
    ]  # fmt: skip


@pytest.mark.parametrize("with_git", [True, False])
def test_dstackignore_takes_away_more_tracked_files_too(project: Path, with_git: bool) -> None:
    write(project, {".dstackignore": "data/\n", "data/a": "", "train.py": ""})
    write(project, {"sub/.dstackignore": "*.bin", "sub/w.bin": "", "w.bin": ""})
    if with_git:
        git(project, "init")
        git(project, "add", ".")
    assert paths(scan_project(project)) == [
        ".dstackignore", "sub/.dstackignore", "train.py", "w.bin",
    ]  # fmt: skip


@pytest.mark.parametrize("with_git", [True, False])
def test_what_every_machine_makes_for_itself_stays_out(project: Path, with_git: bool) -> None:
    write(project, {"train.py": "", "env/pyvenv.cfg": "", "env/lib/x.py": "", "sub/a.py": ""})
    write(project, {"sub/__pycache__/a.pyc": "", ".ipynb_checkpoints/n.ipynb": ""})
    write(project, {"web/node_modules/left-pad/index.js": "", "vendor/.git/config": ""})
    if with_git:
        git(project, "init")
        git(project, "add", "-f", "train.py", "env", "web")
    tree = scan_project(project)
    assert [e.path for e in tree.entries if e.kind is EntryKind.FILE] == ["sub/a.py", "train.py"]


def test_work_trees_inside_the_work_tree_go_along(repository: Path, tmp_path: Path) -> None:
    library = write(tmp_path / "library", {"lib.py": "", ".gitignore": "*.log\n"})
    git(library, "init")
    git(library, "add", ".")
    git(library, "commit", "-m", "first")
    git(repository, "submodule", "add", str(library), "deps/library")
    write(repository, {"deps/library/a.log": "", "deps/library/new.py": ""})
    nested = write(repository / "nested", {"n.py": "", ".dstackignore": "secret\n", "secret": ""})
    git(nested, "init")
    assert paths(scan_project(repository)) == [
        ".gitmodules", "deps/library/.gitignore", "deps/library/lib.py", "deps/library/new.py",
        "nested/.dstackignore", "nested/n.py",
    ]  # fmt: skip


def test_a_part_of_a_work_tree_is_a_project_too(repository: Path) -> None:
    write(repository, {".gitignore": "*.log\n", "other.py": "", "part/a.log": "", "part/a.py": ""})
    assert paths(scan_project(repository / "part")) == ["a.py"]


def test_a_project_that_the_work_tree_around_it_ignores_is_sent_all_the_same(
    repository: Path,
) -> None:
    write(repository, {".gitignore": "*\n", "part/.gitignore": "*.log", "part/a.log": ""})
    write(repository, {"part/a.py": ""})
    assert paths(scan_project(repository / "part")) == [".gitignore", "a.py"]


def test_where_git_fails_its_ignore_files_are_read_and_a_remark_says_so(repository: Path) -> None:
    write(repository, {".gitignore": "*.log\n", "part/a.log": "", "part/a.py": ""})
    (repository / ".git" / "HEAD").write_text("nonsense")
    tree = scan_project(repository / "part")
    assert paths(tree) == ["a.py"]
    assert "git could not list the project" in tree.remarks[0]


def test_where_there_is_no_git_the_ignore_files_up_to_the_work_trees_top_count(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(repository, {".gitignore": "*.log\n/part/data\n", "part/a.log": "", "part/a.py": ""})
    write(repository, {"part/data/x": "", "part/sub/data/x": ""})
    monkeypatch.setenv("PATH", "/nonexistent")
    tree = scan_project(repository / "part")
    assert (paths(tree), tree.remarks) == (["a.py", "sub/data/x"], ())


def test_git_is_not_led_astray_by_a_hooks_environment(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    write(repository, {"a.py": ""})
    tree = scan_project(repository)
    assert (paths(tree), tree.remarks) == (["a.py"], ())


def test_symlinks_stay_symlinks_and_those_that_lead_out_are_named(project: Path) -> None:
    write(project, {"sub/a": ""})
    (project / "near").symlink_to("sub/a")
    (project / "sub" / "up").symlink_to("../near")
    (project / "far").symlink_to("/etc/passwd")
    (project / "sub" / "out").symlink_to("../../elsewhere")
    (project / "folder").symlink_to("sub")
    tree = scan_project(project)
    assert entry_of(tree, "near") == Entry("near", EntryKind.SYMLINK, 0o755, target="sub/a")
    assert entry_of(tree, "folder").target == "sub"
    assert tree.remarks == (
        "symlinks that lead out of the project lead nowhere there: far, sub/out",
    )


def test_the_executable_bit_empty_folders_and_any_name_are_kept(project: Path) -> None:
    write(project, {"run.sh": "", "plain": "", "zürich ☃\n": ""})
    (project / "run.sh").chmod(0o700)
    (project / os.fsdecode(b"\xff\xfe")).write_text("")
    (project / "empty" / "deep").mkdir(parents=True)
    tree = scan_project(project)
    assert paths(tree) == sorted(["empty/deep", "plain", "run.sh", "zürich ☃\n", "\udcff\udcfe"])
    assert [entry_of(tree, name).mode for name in ("run.sh", "plain")] == [0o755, 0o644]
    assert entry_of(tree, "empty/deep").kind is EntryKind.FOLDER


def test_a_folder_whose_content_stays_here_is_there_all_the_same(project: Path) -> None:
    write(project, {".gitignore": "*.ckpt\n", "outputs/last.ckpt": ""})
    assert paths(scan_project(project)) == [".gitignore", "outputs"]


def test_fifos_sockets_and_what_cannot_be_read_are_left_out_and_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, {"a.py": "", "secret": ""})
    os.mkfifo(project / "pipe")
    monkeypatch.chdir(project)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("door")
        real = os.open
        refuse = PermissionError(13, "no")  # root may read everything, so the file's mode is no use

        def guarded(path: str, *rest: int) -> int:
            if str(path).endswith("secret"):
                raise refuse
            return real(path, *rest)

        monkeypatch.setattr(os, "open", guarded)
        tree = scan_project(project)
    assert paths(tree) == ["a.py"]
    assert tree.remarks == (
        "what cannot be read is left out: secret",
        "neither files nor folders, so left out: door, pipe",
    )


@pytest.mark.parametrize("with_git", [True, False])
def test_too_many_files_are_refused_with_the_folders_that_hold_them(
    project: Path, with_git: bool
) -> None:
    write(project, {f"data/{number}": "" for number in range(30)} | {"a.py": ""})
    if with_git:
        git(project, "init")
    with pytest.raises(TooLarge, match=r"more than 20 files; most are in data/ \(30\)") as caught:
        scan_project(project, limits=FileLimits(max_files=20))
    assert all(word in str(caught.value.hint) for word in (".dstackignore", "--no-files"))


def test_empty_folders_count_as_well(project: Path) -> None:
    for number in range(30):
        (project / f"{number}").mkdir()
    with pytest.raises(TooLarge, match="more than 20 files"):
        scan_project(project, limits=FileLimits(max_files=20))


def test_too_large_a_project_is_refused_before_it_is_read_naming_the_biggest(
    project: Path,
) -> None:
    write(project, {"data/a": bytes(3000), "data/b": bytes(2000), "m.bin": bytes(4000), "x": "1"})
    progress: list[int] = []
    with pytest.raises(TooLarge) as caught:
        scan_project(
            project, limits=FileLimits(max_bytes=8000), on_progress=lambda *_: progress.append(1)
        )
    assert caught.value.message == (
        "the project's files are 9 kB, more than the 8 kB that are sent; the biggest: "
        "data/ (5 kB), m.bin (4 kB), data/a (3 kB), data/b (2 kB), x (1 bytes)"
    )
    assert progress == []


def test_a_home_folder_or_the_root_is_no_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "users" / "me"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "link").symlink_to(home)
    for folder in (home, home.parent, Path("/"), tmp_path / "link"):
        with pytest.raises(Refused, match="not"):
            scan_project(folder)
    with pytest.raises(NotFound, match="cannot be found"):
        scan_project(tmp_path / "nowhere")
    (home / "project").mkdir()
    assert paths(scan_project(home / "project")) == []


def test_the_engines_home_inside_the_project_stays_out(project: Path) -> None:
    write(project, {"a.py": "", "here/engine.json": "token"})
    assert paths(scan_project(project, home=Home(project / "here"))) == ["a.py"]


def test_unchanged_files_are_not_read_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    write(project, {"a": "one", "b": "two"})
    first = scan_project(project)
    write(project, {"b": "2"})
    read: list[str] = []
    monkeypatch.setattr(
        "dstack_engine.files.tree.read_content",
        lambda path, on_bytes: read.append(Path(path).name) or read_content(path, on_bytes),
    )
    second = scan_project(project)
    assert read == ["b"]
    assert entry_of(second, "a") == entry_of(first, "a")
    assert second.digest != first.digest


def test_a_change_that_keeps_size_and_time_is_seen(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    write(project, {"a": "one"})
    first, before = scan_project(project), (project / "a").stat()
    write(project, {"a": "two"})
    os.utime(project / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert scan_project(project).digest != first.digest


def test_files_written_a_moment_ago_are_read_again_as_they_may_change_unseen(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, {"a": "one"})
    scan_project(project)
    bytes_read: list[int] = []
    scan_project(project, on_progress=lambda done, total: bytes_read.append(done))
    assert bytes_read == [3]


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_memory_of_digests_is_made_anew(
    project: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    settle(monkeypatch)
    write(project, {"a": "one"})
    first = scan_project(project)
    (memory,) = (Home.of_user().cache / "hashes").iterdir()
    good = memory.read_bytes()
    flipped = good.replace(first.entries[0].digest[:4].encode(), b"0000")
    memory.write_bytes(flipped if damage is None else damage)
    assert scan_project(project).digest == first.digest
    assert memory.read_bytes() == good


def test_the_same_files_have_the_same_digest_anywhere(project: Path, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"b/c": "1", "b.txt": "2", "a": "3"}
    write(project, files)
    other = write(tmp_path / "other", dict(reversed(files.items())))
    assert scan_project(project).digest == scan_project(other).digest
