"""What was published is kept on disk, and a file that is broken stops nobody."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from dstack_engine.gateway import state
from dstack_engine.gateway.state import KeptPublication
from dstack_engine.records.publication import Publication, PublishedReplica, PublishedService
from dstack_engine.spec.services import Header, HeaderKey, Probe, RateLimit, ServedModel

EVERYTHING = Publication(
    1763720000123,
    (
        PublishedService(
            "chat",
            "id-1",
            auth=False,
            model=ServedModel(name="tiny", format="tgi", eos_token="</s>"),
            probes=(Probe(url="/health", headers=(Header(name="X", value="y"),), interval=5),),
            rate_limits=(RateLimit(rps=5, key=HeaderKey(type="header", header="X-User")),),
            replicas=(PublishedReplica("chat-0-1/3", "127.0.0.1", 8000, draining=True),),
            holds=False,
            trouble="replica 0 failed: exit code 1",
        ),
        PublishedService("web", "id-2", model=ServedModel(name="big", format="openai")),
    ),
    ("ab" * 32,),
)


@pytest.fixture
def kept(tmp_path: Path) -> KeptPublication:
    return KeptPublication(tmp_path / "publication.json")


def test_what_was_saved_is_loaded_whole(kept: KeptPublication) -> None:
    kept.save(Publication(1))
    kept.save(EVERYTHING)
    assert kept.load() == EVERYTHING


def test_before_anything_was_saved_there_is_nothing(kept: KeptPublication) -> None:
    assert kept.load() is None


def test_the_file_is_the_users_alone_and_written_in_one_step(
    kept: KeptPublication, tmp_path: Path
) -> None:
    kept.save(EVERYTHING)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_is_whole_at_every_moment_though_several_workers_save_it_at_once(
    kept: KeptPublication,
) -> None:
    kept.save(EVERYTHING)
    with ProcessPoolExecutor(2, get_context("spawn")) as workers:
        saved = [workers.submit(kept.save, EVERYTHING) for _ in range(400)]
        while not all(each.done() for each in saved):
            assert kept.load() == EVERYTHING


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"format": 1, "publica',
        "[]",
        "null",
        '{"format": 2, "publication": {"version": 1}}',
        '{"format": 1, "publication": {"version": "x", "tokens": ["0123abcd"]}}',
        "\0\xff",
    ],
)
def test_a_broken_file_is_set_aside_with_a_line_in_the_log(
    kept: KeptPublication, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "publication.json"
    file.write_text(text, encoding="latin-1")
    with caplog.at_level(logging.ERROR):
        assert kept.load() is None
    assert "cannot be read and is set aside" in caplog.text
    assert "0123abcd" not in caplog.text
    assert [each.name for each in tmp_path.iterdir()] == ["publication.broken"]
    kept.save(EVERYTHING)
    assert kept.load() == EVERYTHING


def test_a_file_that_is_too_long_is_not_read(
    kept: KeptPublication, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.save(EVERYTHING)
    monkeypatch.setattr(state, "LONGEST_PUBLICATION", -1024)
    assert kept.load() is None


def test_a_disk_that_takes_nothing_is_logged_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    KeptPublication(tmp_path / "absent" / "publication.json").save(EVERYTHING)
    assert "cannot be kept" in caplog.text


def test_what_cannot_be_kept_leaves_no_draft_behind(
    kept: KeptPublication, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "publication.json").mkdir()  # written whole, it cannot take this place
    kept.save(EVERYTHING)
    assert "cannot be kept" in caplog.text
    assert [each.name for each in tmp_path.iterdir()] == ["publication.json"]


def test_a_later_version_may_say_more(kept: KeptPublication, tmp_path: Path) -> None:
    kept.save(Publication(7))
    file = tmp_path / "publication.json"
    written = json.loads(file.read_text())
    written["written_by"] = "a later version"
    written["publication"]["regions"] = ["here"]
    file.write_text(json.dumps(written))
    assert kept.load() == Publication(7)
