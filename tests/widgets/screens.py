"""What jobs print and what a terminal shows of it: both log screens must agree with these."""

from __future__ import annotations

from dataclasses import dataclass

from dstack_engine.records.events import Stream

OUT, ERR, CUT = Stream.STDOUT, Stream.STDERR, Stream.CUT


@dataclass(frozen=True)
class Screen:
    """Output in the pieces it came in, and the text that is left."""

    name: str
    pieces: tuple[tuple[Stream, bytes], ...]
    shows: str


def _printed(name: str, text: str | bytes, shows: str) -> Screen:
    payload = text.encode() if isinstance(text, str) else text
    return Screen(name, ((OUT, payload),), shows)


SCREENS = (
    _printed("lines", "one\ntwo\n", "one\ntwo"),
    _printed("an unfinished line", "one\ntw", "one\ntw"),
    _printed("windows line ends", "one\r\ntwo\r\n", "one\ntwo"),
    _printed("empty lines", "\n\nx\n", "\n\nx"),
    _printed("a progress bar stays one line", "\r 1%\r 50%\r100%\nend", "100%\nend"),
    _printed("a shorter text leaves the rest", "abcdef\rxy", "xycdef"),
    _printed("backspaces", "abc\b\bX", "aXc"),
    _printed("tabs", "a\tb\n12345678\tc", "a       b\n12345678        c"),
    _printed("colours leave no trace", "\x1b[1;31mred\x1b[0m \x1b[38;5;200mp\x1b[m", "red p"),
    _printed("colours within overwritten text", "\x1b[31mabcdef\rX\x1b[0mY", "XYcdef"),
    _printed("several bars", "\ra 1\n\rb 1\x1b[A\ra 2\n\rb 2\x1b[A\ra 3\n\n", "a 3\nb 2"),
    _printed("cursor up and erase", "one\ntwo\nthree\x1b[2A\r\x1b[2Knew", "new\ntwo\nthree"),
    _printed("erase to the end", "abcdef\r\x1b[3C\x1b[K", "abc"),
    _printed("erase below", "one\ntwo\nthree\x1b[2A\r\x1b[J", ""),
    _printed("columns", "abc\x1b[2GX\x1b[6GY", "aXc  Y"),
    _printed("titles and links", "\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1b]8;;\x1b\\", "ab"),
    _printed("modes and bells", "\x1b[?25la\x07\x1b[?25h\x1b=b\x00", "ab"),
    _printed("broken bytes", b"a\xff\xfeb", "a��b"),
    _printed("beyond the basic plane", "🚀🚀🚀\r🐢", "🐢🚀🚀"),
    _printed("a line without end", "x" * 10_001, "x" * 10_000 + "\nx"),
    _printed("up beyond the top", "a\x1b[99A\rb", "b"),
    _printed("absurd numbers", "a\x1b[" + "9" * 20 + "Cb\x1b[" + "9" * 300 + "mc", "a bc"),
    Screen("a character in two pieces", ((OUT, b"\xe2\x82"), (OUT, b"\xac")), "€"),
    Screen(
        "streams that cut each other's characters",
        ((ERR, b"\xe2\x82"), (OUT, b"x\x1b[1;3"), (ERR, b"\xac"), (OUT, b"1mred")),
        "x€red",
    ),
    Screen("a mark stands by itself", ((OUT, b"abc"), (CUT, b"5 MB left out"), (OUT, b"d")),
           "abc\n5 MB left out\nd"),
    Screen("an escape that never ends", ((OUT, b"a\x1b]" + b"x" * 5000), (OUT, b"b")),
           "a]" + "x" * 5000 + "b"),
)  # fmt: skip
