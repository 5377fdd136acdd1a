"""`validate` says of each file whether it is good."""

from __future__ import annotations

import io
import json
from pathlib import Path

from dstack_engine.spec.validation import validate


def test_good_and_bad_files_are_told_apart(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.dstack.yml", tmp_path / "bad.dstack.yml"
    good.write_text("type: task\ncommands: [a]\n", encoding="utf-8")
    bad.write_text("type: task\ncomands: [a]\n", encoding="utf-8")
    out = io.StringIO()

    status = validate([str(good), str(bad)], stdout=out)

    assert status == 1
    assert out.getvalue().startswith(f"{good}: good\n{bad}: 1 problem\n")
    assert (
        "line 2, column 1: comands: is not a known key; did you mean `commands`?" in out.getvalue()
    )


def test_json_is_one_object_a_line(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.dstack.yml", tmp_path / "bad.dstack.yml"
    good.write_text("type: task\nimage: a\nresources: {memory: nan}\n", encoding="utf-8")
    bad.write_bytes(b"type: task\nimage: a\nnodes: 0\n")
    out = io.StringIO()

    status = validate([str(good), str(bad), str(tmp_path / "absent")], as_json=True, stdout=out)

    first, second, third = map(json.loads, out.getvalue().splitlines())
    assert status == 1
    assert (first["file"], first["ok"]) == (str(good), True)
    assert first["configuration"]["resources"]["cpu"] == {"min": 2, "max": None}
    assert second == {
        "file": str(bad),
        "ok": False,
        "errors": [{"line": 3, "column": 8, "key": "nodes", "message": "must be 1 or more, not 0"}],
    }
    assert (third["ok"], "cannot be read" in third["errors"][0]["message"]) == (False, True)


def test_standard_input_is_a_file_like_any_other() -> None:
    out = io.StringIO()
    stdin = io.TextIOWrapper(io.BytesIO(b"type: volume\nbackend: aws\nregion: r"), encoding="utf-8")

    assert validate(["-"], stdin=stdin, stdout=out) == 0
    assert out.getvalue() == "-: good\n"


def test_standard_input_in_bytes_that_are_no_text_is_refused() -> None:
    out = io.StringIO()

    assert validate(["-"], as_json=True, stdin=io.BytesIO(b"\xff"), stdout=out) == 1
    assert "is not UTF-8" in json.loads(out.getvalue())["errors"][0]["message"]
