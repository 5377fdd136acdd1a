"""What a terminal would show of a job's output: colours, carriage returns, progress bars.

Kept small and bounded. `widgets.run` feeds it live and `rendering.logs` turns it into text and
HTML; `widgets/screen.js` is its twin in the browser, and both pass the same tests.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from dstack_engine.records.events import Stream

#: A member of the 256-colour palette, or ``#rrggbb``.
Colour = int | str

#: A line longer than this is continued on the next one, so no output can make an endless line.
MAX_COLUMNS = 10_000
#: Progress bars move the cursor up; no further than this.
MAX_UP = 500
#: An escape sequence that has not ended after so many characters is none.
MAX_ESCAPE = 4_096

_TAB = 8
_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_CSI = re.compile(r"\x1b\[([0-?]*)[ -/]*([@-~])")
_STRING = re.compile(r"\x1b[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)")
_SHORT = re.compile(r"\x1b[ -/]*[0-OQ-WYZ\\`-~]")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z")


@dataclass(frozen=True)
class Style:
    """How a piece of text looks."""

    foreground: Colour | None = None
    background: Colour | None = None
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    strike: bool = False
    inverse: bool = False

    def ansi(self) -> str:
        """Return the escape sequence that sets this style and no other."""
        codes = ["0"]
        codes += [code for code, name in _SWITCH_ON.items() if getattr(self, name)]
        codes += _colour_codes(self.foreground, "38") + _colour_codes(self.background, "48")
        return f"\x1b[{';'.join(codes)}m"


PLAIN = Style()
_SWITCH_ON = {
    "1": "bold",
    "2": "dim",
    "3": "italic",
    "4": "underline",
    "7": "inverse",
    "9": "strike",
}
_SWITCH_OFF: dict[int, tuple[str, ...]] = {
    21: ("bold",),
    22: ("bold", "dim"),
    23: ("italic",),
    24: ("underline",),
    27: ("inverse",),
    29: ("strike",),
}


def _colour_codes(colour: Colour | None, prefix: str) -> list[str]:
    if colour is None:
        return []
    if isinstance(colour, int):
        return [prefix, "5", str(colour)]
    parts = [str(int(colour[at : at + 2], 16)) for at in (1, 3, 5)]
    return [prefix, "2", *parts]


class Span(NamedTuple):
    """A piece of a line in one style."""

    text: str
    style: Style = PLAIN


class Line:
    """One line of the screen; its width is counted in characters."""

    __slots__ = ("spans", "width")

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.width = 0

    @property
    def text(self) -> str:
        """Return the line without its styles."""
        return "".join(span.text for span in self.spans)

    def put(self, column: int, text: str, style: Style) -> None:
        """Write *text* over what stands at *column*."""
        if column > self.width:
            self.put(self.width, " " * (column - self.width), PLAIN)
        if column == self.width:
            self._append(text, style)
            return
        tail = self._cut(column + len(text), self.width)
        self.erase_from(column)
        self._append(text, style)
        for span in tail:
            self._append(span.text, span.style)

    def erase_from(self, column: int) -> None:
        """Forget what stands at *column* and after."""
        self.spans = self._cut(0, column)
        self.width = min(self.width, column)

    def _append(self, text: str, style: Style) -> None:
        self.width += len(text)
        if self.spans and (self.spans[-1].style is style or self.spans[-1].style == style):
            text = self.spans.pop().text + text
        self.spans.append(Span(text, style))

    def _cut(self, start: int, stop: int) -> list[Span]:
        kept, at = [], 0
        for span in self.spans:
            piece = span.text[max(start - at, 0) : max(stop - at, 0)]
            if piece:
                kept.append(Span(piece, span.style))
            at += len(span.text)
        return kept


class LogScreen:
    """The last lines of a job's output, as a terminal would have left them.

    Not thread-safe. Keeps *limit* lines besides the one being written, and at most
    *characters*; `dropped` counts the lines that went.
    """

    def __init__(self, limit: int = 100_000, characters: int = 16_000_000) -> None:
        self.dropped = 0
        self._limit = limit
        self._characters = characters
        self._size = 0
        self._lines: deque[Line] = deque([Line()])
        self._up = 0
        self._column = 0
        self._style = PLAIN
        self._pending = dict.fromkeys(Stream, "")
        self._decoders = {
            stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in Stream
        }

    def feed(self, stream: Stream, payload: bytes) -> None:
        """Take a piece of output; characters may be split between pieces of one stream."""
        text = self._decoders[stream].decode(payload)
        if stream is Stream.CUT:
            self._mark(text)
        else:
            self.write(text, stream)

    def write(self, text: str, stream: Stream = Stream.STDOUT) -> None:
        """Take decoded output; an escape sequence may be split between pieces of one stream."""
        text, self._pending[stream] = self._pending[stream] + text, ""
        at = 0
        while at < len(text):
            if found := _TEXT.match(text, at):
                self._put(found.group())
                at = found.end()
            elif text[at] == "\x1b":
                at = self._escape(text, at, stream)
            else:
                self._control(text[at])
                at += 1

    def lines(self, last: int | None = None) -> list[Line]:
        """Return the lines, or only the *last* so many; an empty last line is left out."""
        lines = list(self._lines)
        if not lines[-1].width:
            lines.pop()
        return lines if last is None else lines[max(len(lines) - last, 0) :]

    def text(self, last: int | None = None) -> str:
        """Return the lines without their styles."""
        return "\n".join(line.text.rstrip() for line in self.lines(last))

    def replay(self) -> Iterator[tuple[Stream, bytes]]:
        """Yield output that brings a new screen to where this one is, half characters included."""
        text = "".join(_replayed(self._lines))
        if self._up:
            text += f"\x1b[{self._up}A"
        text += f"\r\x1b[{self._column}C" if self._column else "\r"
        yield Stream.STDOUT, (text + self._style.ansi()).encode()
        for stream, decoder in self._decoders.items():
            half = self._pending[stream].encode() + decoder.getstate()[0]
            if half:
                yield stream, half

    # -- what the characters do

    def _put(self, text: str) -> None:
        while text:
            if self._column >= MAX_COLUMNS:
                self._new_line()
            piece = text[: MAX_COLUMNS - self._column]
            line = self._line
            before = line.width
            line.put(self._column, piece, self._style)
            self._size += line.width - before
            self._column += len(piece)
            text = text[len(piece) :]

    def _mark(self, text: str) -> None:
        if self._column or self._line.width:
            self._up = 0
            self._new_line()
        style, self._style = self._style, Style(dim=True, italic=True)
        self.write(text.strip(), Stream.CUT)
        self._new_line()
        self._style = style

    def _control(self, character: str) -> None:
        match character:
            case "\n":
                self._new_line()
            case "\r":
                self._column = 0
            case "\b":
                self._column = max(self._column - 1, 0)
            case "\t":
                self._column = min((self._column // _TAB + 1) * _TAB, MAX_COLUMNS)
            case _:
                pass  # bells and the like make no mark

    def _escape(self, text: str, at: int, stream: Stream) -> int:
        """Act on the escape sequence at *at*; return the place after it."""
        if found := _CSI.match(text, at):
            self._sequence(found.group(1), found.group(2))
            return found.end()
        if found := _STRING.match(text, at) or _SHORT.match(text, at):
            return found.end()
        if len(text) - at <= MAX_ESCAPE and _UNFINISHED.match(text, at):
            self._pending[stream] = text[at:]
            return len(text)
        return at + 1

    def _sequence(self, parameters: str, final: str) -> None:
        if final == "m":
            self._style = styled(self._style, parameters)
            return
        given = int(parameters) if parameters.isdecimal() and len(parameters) < 6 else 0
        count = max(given, 1)
        match final:
            case "A" | "F":
                self._up = min(self._up + count, len(self._lines) - 1, MAX_UP)
            case "B" | "E":
                self._up = max(self._up - count, 0)
            case "C":
                self._column = min(self._column + count, MAX_COLUMNS)
            case "D":
                self._column = max(self._column - count, 0)
            case "G":
                self._column = min(count - 1, MAX_COLUMNS)
            case "K":
                self._erase_line(given)
            case "J" if given == 0:
                self._erase_below()
            case _:
                pass  # modes, scrolling and absolute places mean nothing in a log
        if final in "EF":
            self._column = 0

    def _erase_line(self, how: int) -> None:
        line = self._line
        self._size -= line.width
        if how == 0:
            line.erase_from(self._column)
        elif how == 1 and self._column < line.width:
            line.put(0, " " * self._column, PLAIN)
        else:
            line.erase_from(0)
        self._size += line.width

    def _erase_below(self) -> None:
        self._erase_line(0)
        for _ in range(self._up):
            self._size -= self._lines.pop().width
        self._up = 0

    @property
    def _line(self) -> Line:
        return self._lines[-1 - self._up]

    def _new_line(self) -> None:
        self._column = 0
        if self._up:
            self._up -= 1
            return
        self._lines.append(Line())
        while len(self._lines) > self._limit + 1 or self._size > self._characters:
            self._size -= self._lines.popleft().width
            self.dropped += 1


def _replayed(lines: Iterable[Line]) -> Iterator[str]:
    style = PLAIN
    for number, line in enumerate(lines):
        if number:
            yield "\n"
        for span in line.spans:
            if span.style != style:
                yield span.style.ansi()
                style = span.style
            yield span.text


@lru_cache(maxsize=1_000)
def styled(style: Style, parameters: str) -> Style:
    """Return *style* after the sequence ``ESC [ parameters m``; unknown codes change nothing."""
    words = re.split("[;:]", parameters[:256])
    codes = [int(word) if word.isdecimal() and len(word) < 6 else 0 for word in words]
    while codes:
        code = codes.pop(0)
        if code == 0:
            style = PLAIN
        elif (name := _SWITCH_ON.get(str(code))) is not None:
            style = replace(style, **{name: True})
        elif code in _SWITCH_OFF:
            style = replace(style, **dict.fromkeys(_SWITCH_OFF[code], False))
        elif code in (38, 48):
            style = _coloured(style, _long_colour(codes), background=code == 48)
        else:
            style = _short_colour(style, code)
    return style


def _short_colour(style: Style, code: int) -> Style:
    match code // 10, code % 10:
        case (3 | 4) as tens, 9:
            return _coloured(style, None, background=tens == 4)
        case (3 | 4) as tens, unit if unit < 8:
            return _coloured(style, unit, background=tens == 4)
        case (9 | 10) as tens, unit if unit < 8:
            return _coloured(style, unit + 8, background=tens == 10)
        case _:
            return style


def _coloured(style: Style, colour: Colour | None, *, background: bool) -> Style:
    if background:
        return replace(style, background=colour)
    return replace(style, foreground=colour)


def _long_colour(codes: list[int]) -> Colour | None:
    """Take ``5;n`` or ``2;r;g;b`` from *codes*."""
    kind = codes.pop(0) if codes else 0
    if kind == 5 and codes:
        return min(codes.pop(0), 255)
    if kind == 2 and len(codes) >= 3:
        red, green, blue = (min(codes.pop(0), 255) for _ in range(3))
        return f"#{red:02x}{green:02x}{blue:02x}"
    codes.clear()
    return None
