"""Results brought home: whole, and nowhere but where they were asked for."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from dstack_engine.errors import Conflict, Refused, TooLarge
from dstack_engine.files.manifest import FileLimits
from dstack_engine.files.unpacking import unpack_tar
from tests.files.projects import write


def member(name: str, content: bytes = b"", **facts: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info, content


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def tar(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.GNU_FORMAT) -> list[bytes]:
    """Return a tar in chunks of an odd size."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind) as target:
        for info, content in members:
            target.addfile(info, io.BytesIO(content))
    whole = packed.getvalue()
    return [whole[start : start + 1009] for start in range(0, len(whole), 1009)]


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_folders_and_symlinks_come_home(tmp_path: Path, kind: int) -> None:
    long = "x" * 150
    heard: list[int] = []
    chunks = tar(
        member("./out", type=tarfile.DIRTYPE, mode=0o700),
        member("./out/a.txt", b"text" * 1000, mode=0o600, mtime=1_000_000_000),
        member(f"out/{long}/run.sh", b"#!", mode=0o6755),
        member("empty", type=tarfile.DIRTYPE),
        symlink("out/last", "a.txt"),
        member("out/same", type=tarfile.LNKTYPE, linkname="./out/a.txt", mode=0o644),
        kind=kind,
    )
    written = unpack_tar(chunks, tmp_path / "here", on_bytes=heard.append)
    here = (tmp_path / "here").resolve()
    names = ["out/a.txt", f"out/{long}/run.sh", "out/same", "out/last"]
    assert written == [here / name for name in names]
    assert (here / "out/a.txt").read_bytes() == (here / "out/same").read_bytes() == b"text" * 1000
    assert (here / "out/a.txt").stat().st_mtime == 1_000_000_000
    assert (here / "out/a.txt").stat().st_ino != (here / "out/same").stat().st_ino
    assert (here / f"out/{long}/run.sh").stat().st_mode & 0o7100 == 0o100
    assert (here / "out/last").readlink() == Path("a.txt")
    assert (here / "empty").is_dir()
    assert sum(heard) == sum(len(chunk) for chunk in chunks)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a/./../../evil", ".."])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="leads out of its folder"):
        unpack_tar(tar(member(name, b"x")), tmp_path / "here")
    assert not (tmp_path / "evil").exists()
    assert not Path("/evil").exists()


def test_nothing_is_written_through_a_symlink_in_the_tar(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"kept": "mine"})
    remarks: list[str] = []
    chunks = tar(
        symlink("abs", str(outside)),
        member("abs/kept", b"evil"),
        symlink("rel", "../outside"),
        member("rel/kept", b"evil"),
        symlink("file", str(outside / "kept")),
        member("file", b"evil"),
    )
    unpack_tar(chunks, tmp_path / "here", on_remark=remarks.append)
    assert (outside / "kept").read_text() == "mine"
    assert [remark.split(",")[0] for remark in remarks] == [
        "the symlink abs leads out", "the symlink rel leads out", "the symlink file leads out",
    ]  # fmt: skip
    assert not any(path.is_symlink() for path in (tmp_path / "here").rglob("*"))


def test_symlinks_that_lead_out_together_are_taken_away(tmp_path: Path) -> None:
    write(tmp_path, {"secret": "mine"})
    remarks: list[str] = []
    chunks = tar(
        member("d", type=tarfile.DIRTYPE),
        symlink("d/up", ".."),
        symlink("d/out", "up/../../secret"),
        symlink("loop", "loop"),
        symlink("dangling", "nowhere"),
    )
    written = unpack_tar(chunks, tmp_path / "here", on_remark=remarks.append)
    assert {path.name for path in written} == {"up", "loop", "dangling"}
    assert remarks == ["the symlink out leads out: left out"]


def test_nothing_is_written_through_a_symlink_that_was_there(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"kept": "mine"})
    here = write(tmp_path / "here", {})
    (here / "out").symlink_to(outside)
    (here / "file").symlink_to(outside / "kept")
    with pytest.raises(Refused, match="is a symlink; nothing is written through it"):
        unpack_tar(tar(member("out/kept", b"evil")), here)
    unpack_tar(tar(member("file", b"new")), here)
    assert (outside / "kept").read_text() == "mine"
    assert ((here / "file").read_text(), (here / "file").is_symlink()) == ("new", False)


def test_a_link_to_a_file_that_did_not_come_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"secret": "mine"})
    remarks: list[str] = []
    chunks = tar(member("stolen", type=tarfile.LNKTYPE, linkname="../secret"))
    assert unpack_tar(chunks, tmp_path / "here", on_remark=remarks.append) == []
    assert remarks == ["stolen is a link to what did not come, and is left out"]


def test_devices_and_fifos_are_left_out(tmp_path: Path) -> None:
    remarks: list[str] = []
    chunks = tar(
        member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("pipe", type=tarfile.FIFOTYPE),
        member("a", b"x"),
    )
    written = unpack_tar(chunks, tmp_path / "here", on_remark=remarks.append)
    assert [path.name for path in written] == ["a"]
    assert len(remarks) == 2


def test_results_pulled_again_replace_the_first(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        unpack_tar(tar(member("a", content)), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"two"


def test_a_file_in_a_folders_place_is_a_conflict_and_stays(tmp_path: Path) -> None:
    write(tmp_path, {"file": "mine", "folder/x": "mine"})
    with pytest.raises(Conflict, match="is a file there"):
        unpack_tar(tar(member("file/x", b"new")), tmp_path)
    with pytest.raises(Conflict, match="is a folder there"):
        unpack_tar(tar(member("folder", b"new")), tmp_path)
    with pytest.raises(Conflict, match="is a folder there"):
        unpack_tar(tar(symlink("folder", "file")), tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_tar_cut_short_leaves_the_file_before_it_whole(tmp_path: Path) -> None:
    write(tmp_path, {"a": "whole"})
    chunks = tar(member("a", bytes(100_000)))
    with pytest.raises(Refused, match="not a whole tar"):
        unpack_tar(chunks[:20], tmp_path)
    assert (tmp_path / "a").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize("content", [[], [b"x" * 2000], [b"", b"\0" * 100]])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: list[bytes]) -> None:
    with pytest.raises(Refused, match="not a whole tar"):
        unpack_tar(content, tmp_path)


def test_too_many_too_large_and_bombs_of_names_are_refused(tmp_path: Path) -> None:
    chunks = tar(member("a", bytes(600)), member("b", bytes(600)))
    with pytest.raises(TooLarge, match="1 kB"):
        unpack_tar(chunks, tmp_path, limits=FileLimits(max_bytes=1000))
    with pytest.raises(TooLarge, match="more than 1 files"):
        unpack_tar(chunks, tmp_path, limits=FileLimits(max_files=1))
    twice = tar(member("a", bytes(600)), member("b", type=tarfile.LNKTYPE, linkname="a"))
    with pytest.raises(TooLarge, match="1 kB"):
        unpack_tar(twice, tmp_path, limits=FileLimits(max_bytes=1000))
    bomb, _ = member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME)
    bomb.size = 1 << 40
    with pytest.raises(Refused, match="a name in it is too long"):
        unpack_tar([bomb.tobuf(tarfile.GNU_FORMAT)], tmp_path)
