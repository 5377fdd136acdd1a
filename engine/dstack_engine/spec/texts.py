"""YAML text before it is read: its limits, its lines, and the problem at a place of it.

`documents` reads values from it; `parsing` and `documents` show problems with their source line.
"""

from __future__ import annotations

import re
from typing import Final

import yaml

from dstack_engine.errors import ConfigurationError, Problem

#: The most bytes that a configuration may have.
MAX_BYTES: Final = 1_000_000
_MAX_SOURCE: Final = 200
_LINE_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_FORBIDDEN: Final = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)


def split_lines(text: str) -> list[str]:
    """Return the lines of *text* as YAML counts them."""
    return _LINE_BREAK.split(text)


def key_path(path: tuple[str | int, ...]) -> str:
    """Return *path* as an author would say it: `resources.gpu.count`, `ports[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if len(part) <= 60 else part[:60] + "…"
            text += f".{name}" if text else name
    return text


def problem_at(
    lines: list[str],
    line: int,
    column: int,
    message: str,
    suggestion: str | None = None,
    *,
    key: str = "",
    first_line: int = 1,
) -> Problem:
    """Return the problem at a place of the text, with its source line where that can be shown."""
    source = lines[line - 1] if 0 < line <= len(lines) else None
    if source is not None and (column > _MAX_SOURCE or not source.strip()):
        source = None
    if source is not None:
        source = source[:_MAX_SOURCE].replace("\t", " ")
    return Problem(line + first_line - 1, column, key, message, suggestion, source)


def decode(text: str | bytes, first_line: int, file: str | None) -> str:
    """Return *text* as text; raise `ConfigurationError` where it is too long or no UTF-8."""
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        message = f"the text has {size:,} bytes; a configuration may have {MAX_BYTES:,}"
        raise ConfigurationError([Problem(first_line, 1, "", message)], file=file)
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode("utf-8")
        line, column = _position(before, len(before))
        message = f"the byte 0x{text[error.start]:02x} is not UTF-8"
        problem = problem_at(
            [], line, column, message, "save the file as UTF-8", first_line=first_line
        )
        raise ConfigurationError([problem], file=file) from None


def _position(text: str, index: int) -> tuple[int, int]:
    breaks = list(_LINE_BREAK.finditer(text, 0, index))
    return len(breaks) + 1, index - (breaks[-1].end() if breaks else 0) + 1


def refuse_characters(text: str, lines: list[str], first_line: int, file: str | None) -> None:
    """Raise `ConfigurationError` at the first character that YAML does not allow, if any."""
    found = _FORBIDDEN.search(text)
    if found is None:
        return
    line, column = _position(text, found.start())
    name = "a NUL character" if found[0] == "\0" else f"the control character U+{ord(found[0]):04X}"
    problem = problem_at(
        [], line, column, f"{name} cannot be part of a configuration", first_line=first_line
    )
    raise ConfigurationError([problem], file=file)


_COLON_HINT: Final = (
    "is the line above right, and indented as it should? a text with `: ` needs quotes"
)
_OPENED: Final = ("a quoted scalar", "a flow sequence", "a flow mapping")
_NO_KEY_HERE: Final = "this is neither a key of the mapping above nor its end"

#: What PyYAML and libyaml say, and what we say.
_YAML_WORDS: Final = (
    ("mapping values are not allowed", "a `:` is not possible here", _COLON_HINT),
    ("expected alphabetic or numeric", "a text that begins with `*` or `&` needs quotes", None),
    ("could not find expected ':'", "this line should be `key: value`", "is a `:` missing?"),
    ("did not find expected key", _NO_KEY_HERE, "check the indentation and the quotes"),
    ("expected <block end>", _NO_KEY_HERE, "check the indentation and the quotes"),
    ("did not find expected '-'", "an entry of the list should begin with `- `", None),
    (
        "block sequence entries are not allowed",
        "a list cannot begin here",
        "put it on its own line",
    ),
    ("while scanning a quoted scalar", "a quotation mark is not closed", None),
    ("unexpected end of stream", "a quotation mark is not closed", None),
    ("',' or ']'", "the list is not closed", "`[a, b]` needs its `]`"),
    ("',' or '}'", "the mapping is not closed", "`{a: b}` needs its `}`"),
    ("expected node content", "a value is missing or a bracket is not closed here", None),
    ("expected <document start>", "the value is complete before this", "put the text in quotes"),
    ("undefined alias", "the alias refers to an anchor that is not there", None),
    ("duplicate anchor", "the anchor is defined twice", None),
    ("escape", "the text in double quotes has an unknown escape", "use single quotes"),
    ("nesting", "the text is nested too deeply", None),
)


def not_yaml(error: yaml.YAMLError, lines: list[str], first_line: int) -> Problem:
    """Return the problem that the YAML parser met, in words for an author."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if str(getattr(error, "context", None)).endswith(_OPENED):
        # What is not closed is best shown where it was opened.
        mark = getattr(error, "context_mark", None) or mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    said = str(getattr(error, "problem", None) or error).splitlines()[0]
    while line > 1 and (line > len(lines) or not lines[line - 1].strip()):
        line -= 1
        column = len(lines[line - 1]) + 1 if line <= len(lines) else 1
    source = lines[line - 1] if line <= len(lines) else ""
    message, suggestion = f"this is not YAML: {said}", None
    context = f"{getattr(error, 'context', None) or ''} {said}"
    if "\t" in source[:column] and not source[: column - 1].strip():
        column = source.index("\t") + 1
        message, suggestion = "a tab cannot indent YAML", "use spaces"
    elif "cannot start any token" in said:
        character = source[column - 1 : column]
        message, suggestion = f"a value cannot begin with {character!r}", "put it in quotes"
    else:
        for theirs, ours, hint in _YAML_WORDS:
            if theirs in context:
                message, suggestion = ours, hint
                break
    return problem_at(lines, line, column, message, suggestion, first_line=first_line)


def cut(text: str) -> str:
    """Return *text*, shortened where it is long."""
    return text if len(text) <= 40 else text[:40] + "…"
