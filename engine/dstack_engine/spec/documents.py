"""YAML text as values with places: what `parsing` reads a configuration from.

YAML 1.1 as PyYAML's safe loader has it, built here from the parser's events in one pass without
recursion, so that every key and value knows its line and column and hostile text is refused before
it can cost anything. Differences from `yaml.safe_load`, each to the author's good: two equal keys
are an error; `22:22` and dates stay text; only keys that are text are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml.resolver import Resolver

from dstack_engine.errors import ConfigurationError, Problem
from dstack_engine.spec.texts import (
    cut,
    decode,
    key_path,
    not_yaml,
    problem_at,
    refuse_characters,
    split_lines,
)

#: Limits of a document; far above any configuration, far below what could hurt.
MAX_DEPTH: Final = 64
MAX_NODES: Final = 10_000
_MAX_DIGITS: Final = 40
_MAX_PROBLEMS: Final = 50


_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Final[Any] = Resolver()
_TAG: Final = "tag:yaml.org,2002:"
_CORE_TAGS: Final = frozenset({"str", "int", "float", "bool", "null"})
_TRUTH: Final = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


@dataclass(slots=True)
class Place:
    """Where a value and its key are, and the places below; lines and columns from 1."""

    line: int
    column: int
    key_line: int
    key_column: int
    below: dict[str | int, Place] = field(default_factory=dict)


@dataclass
class Document:
    """What a YAML text says, and where it says it."""

    value: Any
    place: Place
    lines: list[str]
    #: What is wrong so far, without spoiling the rest.
    problems: list[Problem]
    first_line: int

    def problem(
        self,
        path: tuple[str | int, ...],
        message: str,
        suggestion: str | None = None,
        *,
        at_key: bool = False,
    ) -> Problem:
        """Return the problem at *path*, or at the nearest place above it that is in the text."""
        place, depth = self.place, 0
        for part in path:
            below = place.below.get(part)
            if below is None:
                break
            place, depth = below, depth + 1
        at_key = at_key or depth < len(path)
        line, column = (place.key_line, place.key_column) if at_key else (place.line, place.column)
        key = key_path(path)
        return problem_at(
            self.lines, line, column, message, suggestion, key=key, first_line=self.first_line
        )


def read_document(text: str | bytes, *, first_line: int = 1, file: str | None = None) -> Document:
    """Return what *text* says.

    Raises `ConfigurationError` where nothing can be made of it: no UTF-8, no YAML, too large.
    """
    decoded = decode(text, first_line, file)
    lines = split_lines(decoded)
    refuse_characters(decoded, lines, first_line, file)
    reader = _Reader(lines, first_line, file)
    try:
        for event in yaml.parse(decoded, Loader=_LOADER):
            reader.take(event)
    except yaml.YAMLError as error:
        raise ConfigurationError([not_yaml(error, lines, first_line)], file=file) from None
    return reader.document()


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is not complete yet."""

    value: Any
    place: Place
    anchor: str | None
    size: int = 1
    height: int = 1
    #: The key whose value comes next; `_NO_KEY` between entries, `_DROPPED` after a refused key.
    key: Any = None
    key_mark: tuple[int, int] = (1, 1)
    merged: list[tuple[dict[str, Any], Place]] = field(default_factory=list)


_NO_KEY: Final = object()
_DROPPED: Final = object()
_MERGE: Final = object()


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Any
    place: Place
    size: int
    height: int


class _Reader:
    """Builds values and places from the parser's events."""

    def __init__(self, lines: list[str], first_line: int, file: str | None) -> None:
        self.lines = lines
        self.first_line = first_line
        self.file = file
        self.problems: list[Problem] = []
        self.frames: list[_Frame] = []
        self.anchors: dict[str, _Anchored] = {}
        self.open_anchors: set[str] = set()
        self.total = 0
        self.documents = 0
        self.root: tuple[Any, Place] = (None, Place(1, 1, 1, 1))

    def document(self) -> Document:
        value, place = self.root
        return Document(value, place, self.lines, self.problems, self.first_line)

    def take(self, event: yaml.Event) -> None:
        start = event.start_mark
        mark = (start.line + 1, start.column + 1) if start is not None else (1, 1)
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    self._stop(
                        mark,
                        "there is more than one document here",
                        "remove the `---` and what follows",
                    )
            case yaml.ScalarEvent():
                self._scalar(event, mark)
            case yaml.AliasEvent():
                self._alias(event, mark)
            case yaml.MappingStartEvent():
                self._begin({}, event, mark)
            case yaml.SequenceStartEvent():
                self._begin([], event, mark)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end(mark)

    def _stop(self, mark: tuple[int, int], message: str, suggestion: str | None = None) -> None:
        self._note(mark, message, suggestion, force=True)
        raise ConfigurationError(self.problems, file=self.file)

    def _note(
        self,
        mark: tuple[int, int],
        message: str,
        suggestion: str | None = None,
        *,
        key: str = "",
        force: bool = False,
    ) -> None:
        if force or len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(
                problem_at(
                    self.lines, *mark, message, suggestion, key=key, first_line=self.first_line
                )
            )

    def _count(self, size: int, height: int, mark: tuple[int, int]) -> None:
        self.total += size
        if self.total > MAX_NODES:
            self._stop(mark, f"the document has more than {MAX_NODES:,} values")
        if len(self.frames) + height > MAX_DEPTH:
            self._stop(mark, f"the document is nested more than {MAX_DEPTH} levels deep")

    def _begin(self, value: Any, event: yaml.CollectionStartEvent, mark: tuple[int, int]) -> None:
        self._count(1, 1, mark)
        kind = "map" if isinstance(value, dict) else "seq"
        if event.tag is not None and event.tag not in ("!", _TAG + kind):
            self._note(mark, f"the tag {cut(event.tag)} is not possible here", "leave it out")
        if (
            self.frames
            and self.frames[-1].key is _NO_KEY
            and isinstance(self.frames[-1].value, dict)
        ):
            self._note(mark, "a key must be text, not a list or mapping")
        if event.anchor is not None:
            self.open_anchors.add(event.anchor)
        frame = _Frame(value, Place(*mark, *mark), event.anchor)
        frame.key = _NO_KEY
        self.frames.append(frame)

    def _end(self, mark: tuple[int, int]) -> None:
        frame = self.frames.pop()
        for value, place in frame.merged:
            for key, given in value.items():
                if key not in frame.value:
                    frame.value[key] = given
                    frame.place.below[key] = place.below[key]
        if frame.anchor is not None:
            self.open_anchors.discard(frame.anchor)
        self._place(frame.value, frame.place, frame.size, frame.height, frame.anchor, mark)

    def _alias(self, event: yaml.AliasEvent, mark: tuple[int, int]) -> None:
        name = event.anchor or ""
        known = self.anchors.get(name)
        if known is None:
            within = name in self.open_anchors
            reason = "refers to itself" if within else "refers to an anchor that is not there"
            self._stop(mark, f"the alias *{cut(name)} {reason}")
        else:
            self._count(known.size, known.height, mark)
            place = Place(*mark, *mark, known.place.below)
            self._place(known.value, place, known.size, known.height, None, mark)

    def _scalar(self, event: yaml.ScalarEvent, mark: tuple[int, int]) -> None:
        self._count(1, 1, mark)
        tag = event.tag
        if tag is None or tag == "!":
            tag = _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
        kind = tag.removeprefix(_TAG)
        frame = self.frames[-1] if self.frames else None
        if (
            kind == "merge"
            and frame is not None
            and isinstance(frame.value, dict)
            and frame.key is _NO_KEY
        ):
            frame.key, frame.key_mark = _MERGE, mark
            return
        if event.tag not in (None, "!") and kind not in _CORE_TAGS:
            self._note(mark, f"the tag {cut(tag)} is not possible here", "leave it out")
        value = self._value(kind, event.value, mark)
        self._place(value, Place(*mark, *mark), 1, 1, event.anchor, mark, written=event.value)

    def _value(self, kind: str, text: str, mark: tuple[int, int]) -> object:
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return _TRUTH[text.lower()]
                case "int" if ":" not in text:
                    return self._integer(text, mark)
                case "float" if ":" not in text:
                    return _decimal(text)
        except (ValueError, KeyError):
            self._note(mark, f"{cut(text)!r} is not what its tag says")
        return text

    def _integer(self, text: str, mark: tuple[int, int]) -> int:
        if len(text) > _MAX_DIGITS:
            self._note(
                mark, f"the number {cut(text)} is too large", "put it in quotes if it is a text"
            )
            return 0
        return _whole(text)

    def _place(
        self,
        value: Any,
        place: Place,
        size: int,
        height: int,
        anchor: str | None,
        mark: tuple[int, int],
        written: str | None = None,
    ) -> None:
        if anchor is not None:
            self.anchors[anchor] = _Anchored(value, place, size, height)
        if not self.frames:
            self.root = (value, place)
            return
        frame = self.frames[-1]
        frame.size += size
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.value, list):
            frame.place.below[len(frame.value)] = place
            frame.value.append(value)
        elif frame.key is _NO_KEY:
            self._key(frame, value, mark, written)
        else:
            self._entry(frame, value, place)

    def _key(self, frame: _Frame, key: Any, mark: tuple[int, int], written: str | None) -> None:
        frame.key, frame.key_mark = key, mark
        if not isinstance(key, str):
            frame.key = _DROPPED
            if written is not None:
                reads = (
                    "nothing"
                    if key is None
                    else ("true" if key is True else "false" if key is False else "a number")
                )
                shown = cut(written) or "the empty key"
                self._note(
                    mark, f"a key must be text; YAML reads {shown} as {reads}", "put it in quotes"
                )
        elif key in frame.value:
            first = frame.place.below[key]
            line = first.key_line + self.first_line - 1
            self._note(mark, f"the key is given twice; first on line {line}", key=key_path((key,)))
            frame.key = _DROPPED

    def _entry(self, frame: _Frame, value: Any, place: Place) -> None:
        key, frame.key = frame.key, _NO_KEY
        if key is _DROPPED:
            return
        if key is _MERGE:
            self._merge(frame, value, place)
            return
        place.key_line, place.key_column = frame.key_mark
        if value is None:
            place.line, place.column = frame.key_mark
        frame.value[key] = value
        frame.place.below[key] = place

    def _merge(self, frame: _Frame, value: Any, place: Place) -> None:
        sources = [(value, place)] if isinstance(value, dict) else []
        if isinstance(value, list):
            sources = [(entry, place.below[index]) for index, entry in enumerate(value)]
        if not sources or not all(isinstance(source, dict) for source, _ in sources):
            self._note(frame.key_mark, "`<<` takes a mapping, as in `<<: *anchor`")
            return
        frame.merged.extend(sources)


def _whole(text: str) -> int:
    digits = text.replace("_", "")
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    if digits.startswith("0b"):
        return sign * int(digits[2:], 2)
    if digits.startswith("0x"):
        return sign * int(digits[2:], 16)
    if len(digits) > 1 and digits.startswith("0"):
        return sign * int(digits, 8)
    return sign * int(digits)


def _decimal(text: str) -> float:
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


def walk_texts(
    value: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every text in *value*, a tree of mappings and lists, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, below in value.items():
            yield from walk_texts(below, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, below in enumerate(value):
            yield from walk_texts(below, (*path, index))
