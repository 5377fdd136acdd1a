"""The log screen in Python."""

from __future__ import annotations

import pytest

from dstack_engine.records.events import Stream
from dstack_jupyter.terminal import LogScreen, Span, Style
from tests.widgets.screens import SCREENS, Screen


def screen_of(*pieces: tuple[Stream, bytes], limit: int = 100_000) -> LogScreen:
    """A screen after *pieces*."""
    screen = LogScreen(limit)
    for stream, payload in pieces:
        screen.feed(stream, payload)
    return screen


@pytest.mark.parametrize("case", SCREENS, ids=lambda case: case.name)
def test_the_screen_shows_what_a_terminal_would(case: Screen) -> None:
    assert screen_of(*case.pieces).text() == case.shows


@pytest.mark.parametrize("case", SCREENS, ids=lambda case: case.name)
def test_output_in_single_bytes_shows_the_same(case: Screen) -> None:
    bytewise = [
        (stream, payload[at : at + 1])
        for stream, payload in case.pieces
        for at in range(len(payload))
        if stream is not Stream.CUT
    ]
    if len(bytewise) == sum(len(payload) for _, payload in case.pieces):
        assert screen_of(*bytewise).text() == case.shows


@pytest.mark.parametrize("case", SCREENS, ids=lambda case: case.name)
def test_a_screen_is_taken_up_elsewhere_and_goes_on_as_it_would_have(case: Screen) -> None:
    for cut in range(len(case.pieces) + 1):
        first = screen_of(*case.pieces[:cut])
        second = screen_of(*first.replay())
        for stream, payload in (*case.pieces[cut:], (Stream.STDOUT, b"\x1b[4Zend")):
            first.feed(stream, payload)
            second.feed(stream, payload)
        assert second.lines()[-1].spans == first.lines()[-1].spans
        assert second.text() == first.text()


def test_colours_and_their_ends_are_understood() -> None:
    codes = b"\x1b[1;32mok\x1b[22m!\x1b[39m.\x1b[38;2;255;0;16mrgb\x1b[0;7;48;5;300mi\x1b[95;4m-"
    (line,) = screen_of((Stream.STDOUT, codes)).lines()
    assert line.spans == [
        Span("ok", Style(foreground=2, bold=True)),
        Span("!", Style(foreground=2)),
        Span(".", Style()),
        Span("rgb", Style(foreground="#ff0010")),
        Span("i", Style(background=255, inverse=True)),
        Span("-", Style(foreground=13, background=255, inverse=True, underline=True)),
    ]


def test_only_the_last_lines_are_kept_and_the_others_counted() -> None:
    screen = screen_of((Stream.STDOUT, b"".join(b"%d\n" % n for n in range(250))), limit=100)
    assert screen.text() == "\n".join(str(n) for n in range(150, 250))
    assert screen.dropped == 150


def test_long_lines_are_bounded_too() -> None:
    screen = LogScreen(limit=100, characters=50_000)
    for _ in range(20):
        screen.write("x" * 9_000 + "\n")
    assert len(screen.text()) <= 50_000
    assert screen.dropped == 15
