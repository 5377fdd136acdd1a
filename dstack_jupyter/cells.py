"""Where somebody stands in a `%%dstack` cell: which key, which value, below which keys.

Text only. `completion` asks what may stand at the cursor, `inspection` what stands there,
`magics` whether a cell asks what a key means (`gpu?`). The YAML need not be whole: it is being
written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CELL = re.compile(r"\s*%%dstack(?:\s+(.*))?$")
_LINE = re.compile(
    r"(?P<indent>[ ]*(?:-[ ]+)*)(?:(?P<key>[A-Za-z_][\w.-]*)[ ]*:(?P<rest>\s.*|)|(?P<text>.*))$"
)
_QUESTION = re.compile(r"[ ]*(?:-[ ]+)*(?P<key>[A-Za-z_]\w*):?\?{1,2}\s*$")
#: A value that is text over many lines: `|`, `>-`, also behind a list's dash.
_SCALAR = re.compile(r"(?:.*[ :-][ ]*)?[|>][-+0-9]*\s*(?:#.*)?$")
_NOTHING = re.compile(r"\s*(?:#.*|&\w+\s*)?$")

Path = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A cell that begins with `%%dstack`; lines count from 0, in the whole cell."""

    lines: tuple[str, ...]
    #: The line of the magic.
    first: int
    #: The words after `%%dstack`.
    words: tuple[str, ...]

    @property
    def verb(self) -> str | None:
        """Return `task`, `chat`, …; None where nothing is written yet."""
        return self.words[0] if self.words else None


@dataclass(frozen=True)
class Place:
    """What may stand at the cursor: a key below *path*, a value of *path*, or either."""

    path: Path
    #: What of it is written already.
    fragment: str
    takes_key: bool = False
    takes_value: bool = False


def read_cell(text: str) -> Cell | None:
    """Return the cell that *text* is; None for any other than `%%dstack`."""
    if "%%dstack" not in text:
        return None
    lines = tuple(text.split("\n"))
    first = next((at for at, line in enumerate(lines) if line.strip()), 0)
    found = _CELL.match(lines[first])
    return None if found is None else Cell(lines, first, tuple((found[1] or "").split()))


def place_at(cell: Cell, line: int, column: int) -> Place | None:
    """Return what may stand at that place of the body; None where it is text, or a comment."""
    before = cell.lines[line][:column]
    found = _LINE.match(before)
    if found is None or before.lstrip().startswith("#"):
        return None
    above = path_above(cell, line, len(found["indent"]))
    if above is None:
        return None
    if found["key"] is not None:
        return _value_place((*above, found["key"]), found["rest"].lstrip())
    written = found["text"]
    if written[:1] in ("{", "["):
        return _flow_place(above, written)
    in_list = "-" in found["indent"]
    if not in_list and not re.fullmatch(r"\w*", written):
        return None
    return Place(above, written.lstrip("\"'"), takes_key=" " not in written, takes_value=in_list)


def path_at(cell: Cell, line: int, column: int) -> Path | None:
    """Return the path of the key that stands at that place, or whose value does."""
    if line <= cell.first or cell.verb is None:
        return None
    whole = cell.lines[line]
    found = _LINE.match(whole)
    if found is None or not whole.strip():
        return None
    indent = len(found["indent"])
    above = path_above(cell, line, indent)
    if above is None:
        return _scalar_owner(cell, line, indent)
    if found["key"] is None:
        return above or None
    key_ends = indent + len(found["key"])
    rest = found["rest"].lstrip()
    if column > key_ends and rest[:1] in ("{", "["):
        return _flow_path((*above, found["key"]), rest, column - (len(whole) - len(rest)))
    return (*above, found["key"])


def path_above(cell: Cell, line: int, indent: int) -> Path | None:
    """Return the keys that *line* stands below; None if it is text within one."""
    path: list[str] = []
    for above in reversed(cell.lines[cell.first + 1 : line]):
        found = _LINE.match(above)
        if found is None or not above.strip() or above.lstrip().startswith("#"):
            continue
        column = len(found["indent"])
        if found["key"] is None:
            dashes = found["indent"] + found["text"]
            if _SCALAR.match(dashes) and len(above) - len(above.lstrip()) < indent:
                return None
            continue
        if column >= indent:
            continue
        if _SCALAR.match(found["rest"]):
            return None
        if not _NOTHING.match(found["rest"]):
            return None  # it has a value already: what is below goes on with it
        path.insert(0, found["key"])
        indent = column
        if indent == 0:
            break
    return tuple(path)


def question_in(cell: Cell) -> Path | None:
    """Return the path of the first key that is followed by `?`, as in `gpu?`; None if none is."""
    for line in range(cell.first + 1, len(cell.lines)):
        found = _QUESTION.match(cell.lines[line])
        above = None if found is None else path_above(cell, line, found.start("key"))
        if found is not None and above is not None:
            return (*above, found["key"])
    return None


def _scalar_owner(cell: Cell, line: int, indent: int) -> Path | None:
    """Return the key whose text *line* is a part of."""
    for at in range(line - 1, cell.first, -1):
        found = _LINE.match(cell.lines[at])
        if found is None or not cell.lines[at].strip() or len(found["indent"]) >= indent:
            continue
        indent = len(found["indent"])
        above = path_above(cell, at, indent)
        if above is not None:
            return (*above, found["key"]) if found["key"] is not None else above
    return None


def _value_place(path: Path, written: str) -> Place | None:
    if written[:1] in ("{", "["):
        return _flow_place(path, written)
    if re.search(r"\s#", f" {written}"):
        return None
    return Place(path, written.lstrip("\"'"), takes_value=True)


def _flow_place(path: Path, text: str) -> Place | None:
    """Return the place at the end of *text*, a value such as `{gpu: A1` that is not closed."""
    brackets: list[tuple[str, Path]] = []
    here, since, at_value = path, 0, True
    for at, letter in enumerate(text):
        if letter in "{[":
            brackets.append((letter, here))
            since, at_value = at + 1, letter == "["
        elif letter in "}]" and brackets:
            _, here = brackets.pop()
            since, at_value = at + 1, True
        elif letter == "," and brackets:
            bracket, here = brackets[-1]
            since, at_value = at + 1, bracket == "["
        elif letter == ":" and not at_value and text[at + 1 : at + 2] in ("", " "):
            here, since, at_value = (*here, text[since:at].strip()), at + 1, True
    if not brackets:
        return None
    written = text[since:].lstrip(" \"'")
    return Place(here, written, takes_key=not at_value, takes_value=at_value)


def _flow_path(path: Path, text: str, column: int) -> Path:
    """Return the path of the key at *column* of *text*, a value such as `{gpu: A100}`."""
    end = column
    while end < len(text) and (text[end].isalnum() or text[end] == "_"):
        end += 1
    place = _flow_place(path, text[:end])
    if place is None:
        return path
    return (*place.path, place.fragment) if place.takes_key and place.fragment else place.path
