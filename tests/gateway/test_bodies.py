"""What is read of a body without parsing it: fields of large JSON, fields of forms."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_engine.gateway import multipart, scanning

NAMES = ("model", "stream", "ü")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4)
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES) | st.text(), VALUES, max_size=6)


def scanned(body: bytes) -> dict[str, object]:
    return asyncio.run(scanning.find_fields(body, NAMES))


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
@settings(max_examples=50, deadline=None)
def test_what_is_scanned_is_what_a_parser_reads(
    value: dict[str, Any], ascii_only: bool, indent: Any
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace")
    plain = {k: v for k, v in json.loads(body).items() if not isinstance(v, (dict, list))}
    found = {k: v for k, v in scanned(body).items() if v is not None}
    assert found == {k: plain[k] for k in NAMES if plain.get(k) is not None}


def test_a_field_is_found_behind_many_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "WINDOW", 16)
    value = {"input": [[0.5] * 40, 'x\\"{' * 40], "z": {"model": "not this"}, "model": "tiny"}
    assert scanned(json.dumps(value).encode()) == {"model": "tiny"}


def test_of_a_field_that_is_there_twice_the_last_counts() -> None:
    assert scanned(b'{"model": "a", "model" : "b"}') == {"model": "b"}


@pytest.mark.parametrize(
    "body",
    [b"", b"[1]", b'"model"', b"{", b'{"a": "', b'{"a"}}', b'{"model": "\xff"}', b"7"],
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(scanning.NotAnObject):
        scanned(body)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_the_scanner_fail_otherwise(body: bytes) -> None:
    for text in (body, b'{"model":' + body, b'{"model": "' + body + b'"}'):
        try:
            scanned(text)
        except scanning.NotAnObject:
            continue


BOUNDARY = b"--x'y"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"model", b"file", b"stream"]), st.booleans(), st.binary(max_size=80)
        ),
        max_size=6,
    )
)
@settings(max_examples=300, deadline=None)
def test_fields_of_a_form_are_found_among_its_files(
    parts: list[tuple[bytes, bool, bytes]],
) -> None:
    form, expected = b"", {}
    for name, is_file, value in parts:
        file = b'; filename="model"' if is_file else b""
        form += b'--%b\r\nContent-Type: x/y\r\ncontent-disposition: form-data; name="%b"%b' % (
            BOUNDARY,
            name,
            file,
        )
        form += b"\r\n\r\n" + value + b"\r\n"
        if not is_file:
            expected[name.decode()] = value.decode("utf-8", "replace")
    form += b"--" + BOUNDARY + b"--\r\n"
    found = multipart.find_fields(form, BOUNDARY, ("model", "stream", "file"))
    assert found == expected


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_a_broken_form_has_no_fields_or_some_and_no_more(noise: bytes) -> None:
    for body in (noise, b"--B\r\n" + noise, b"--B\r\n" + noise + b"\r\n\r\n" + noise + b"\r\n--B"):
        multipart.find_fields(body, b"B", ("model",))


def test_the_boundary_may_be_quoted() -> None:
    assert multipart.boundary_of('multipart/form-data; charset=x; boundary="a b"') == b"a b"
    assert multipart.boundary_of("multipart/form-data") is None
