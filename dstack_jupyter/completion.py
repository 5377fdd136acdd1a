"""Tab inside `%dstack` and `%%dstack`: verbs, options, names, and the body's keys and values.

One matcher of IPython's completer (`magics` registers it). It answers from what is known: the
types of the language, and the names that `known_names` remembers. A terminal shows a candidate's
type beside it, which is its line of help there. A page has a narrow column for it, so there it is a
word; the help is in the page's panel beside the list, which asks `inspection` for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from IPython import get_ipython
from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult

from dstack_engine.spec.schema import keys_of, words_of
from dstack_jupyter import known_names
from dstack_jupyter.arguments import Parser
from dstack_jupyter.cells import Cell, Place, path_at, place_at, read_cell
from dstack_jupyter.commands.options import FLEET_ACTIONS
from dstack_jupyter.commands.table import COMMANDS, NOTEBOOK, Command

#: So long may a line of help be that is shown beside a candidate.
LONGEST_HELP = 60

_CELL = re.compile(r"\s*%%dstack\s(.*)")
_LINE = re.compile(r"\s*(?:[\w, ]+=\s*)?%dstack\s(.*)")
_NO_MATCH: SimpleMatcherResult = {"completions": [], "suppress": False}


class _Silence(list[SimpleCompletion]):
    """No completion, and none of Python's: only a matcher that has some may silence others."""

    def __len__(self) -> int:
        return 1


_NOTHING_HERE: SimpleMatcherResult = {"completions": _Silence(), "suppress": True}

#: The names that options and keys take, by how these are called.
_NAMES_OF_OPTIONS: Mapping[str, tuple[known_names.Names, str]] = {
    "--profile": (known_names.PROFILES, "profile"),
    "--region": (known_names.REGIONS, "region"),
    "-r": (known_names.REGIONS, "region"),
    "--instance-type": (known_names.INSTANCE_TYPES, "instance type"),
    "--fleet": (known_names.FLEETS, "fleet"),
    "--pool": (known_names.FLEETS, "fleet"),
    "-f": (known_names.FILES, "configuration"),
    "--file": (known_names.FILES, "configuration"),
}
_NAMES_OF_KEYS: Mapping[str, tuple[known_names.Names, str]] = {
    "regions": (known_names.REGIONS, "region"),
    "instance_types": (known_names.INSTANCE_TYPES, "instance type"),
    "fleets": (known_names.FLEETS, "fleet"),
}
#: Keys whose texts are commands, which name files of the project.
_SHELL_KEYS = {"commands", "setup", "init", "entrypoint", "working_dir"}
_GPU_PATHS = {("resources", "gpu"), ("resources", "gpu", "name")}


def match(context: CompletionContext) -> SimpleMatcherResult:
    """Return what may stand at the cursor; nothing outside our lines and cells."""
    cell = read_cell(context.full_text)
    if cell is not None and context.cursor_line > cell.first:
        return _body(cell, context)
    before = context.text_until_cursor
    found = _CELL.match(before) if cell is not None else _LINE.match(before)
    if found is None:
        return _NO_MATCH
    return _result(*_words(found[1], in_cell=cell is not None)) or _NOTHING_HERE.copy()


@dataclass(frozen=True)
class _Found:
    """What may stand at the cursor, of one or several kinds: each word with its line of help."""

    helps: Mapping[str, str]
    kind: str

    @classmethod
    def of(cls, words: Iterable[str], kind: str) -> _Found:
        """Return *words* of which there is no more to say than what they are."""
        return cls(dict.fromkeys(words, kind), kind)


def _words(text: str, *, in_cell: bool) -> tuple[str, _Found | None]:
    *before, fragment = re.split(r"\s+", text.lstrip())
    if not before:
        fitting = (one for one in COMMANDS if one.has_body is in_cell or one.may_have_body)
        return fragment, _Found({one.name: one.summary for one in fitting}, "keyword")
    command = next((command for command in COMMANDS if command.name == before[0]), None)
    if command is None or "--" in before:
        return fragment, None
    parser = command.parser(NOTEBOOK)
    if fragment.startswith("-"):
        helps = {**parser.option_helps(), "--help": "show what the verb takes"}
        return fragment, _Found(helps, "param")
    if before[-1].startswith("-") and parser.takes_value(before[-1]):
        return _option_value(before[-1], parser, fragment)
    return fragment, _positional(command, parser, before, fragment)


def _option_value(option: str, parser: Parser, fragment: str) -> tuple[str, _Found]:
    if option == "--gpu":
        return _gpu(fragment)
    if option in ("--backend", "-b"):
        return fragment, _Found.of(words_of("task", "backends"), "backend")
    if option in _NAMES_OF_OPTIONS:
        names, kind = _NAMES_OF_OPTIONS[option]
        return fragment, _Found.of(names.recall(), kind)
    return fragment, _Found.of(parser.choices_of(option), "value")


def _positional(
    command: Command, parser: Parser, before: list[str], fragment: str
) -> _Found | None:
    if command.name == "help":
        return _Found({one.name: one.summary for one in COMMANDS}, "keyword")
    already = sum(not word.startswith("-") for word in before[1:])
    choices = FLEET_ACTIONS if command.name == "fleet" else parser.choices_of("action")
    if choices:
        return _Found.of(choices, "action") if already == 0 else _machines(before, already)
    places = {action.dest: action.nargs for action in parser._actions if not action.option_strings}
    if command.name == "chat" and len(before) == 1:
        return _Found.of(known_names.MODELS.recall(), "model")
    if "runs" in places or ("run" in places and already == 0):
        return _Found.of(known_names.RUNS.recall(), "run")
    return _files(fragment) if {"files", "path"} & places.keys() else None


def _machines(before: list[str], already: int) -> _Found | None:
    """Return what may follow `fleet` and `pool` with their action."""
    if before[0] == "fleet" and already == 1:
        return _Found.of(known_names.FLEETS.recall(), "fleet")
    if before[:2] == ["fleet", "trust"] or before[0] == "pool":
        return _Found.of(known_names.HOSTS.recall(), "machine")
    return _Found.of(known_names.FLEETS.recall(), "fleet") if before[0] == "fleet" else None


def _body(cell: Cell, context: CompletionContext) -> SimpleMatcherResult:
    if cell.verb is None:
        return _NO_MATCH
    if cell.verb == "chat":
        return _NOTHING_HERE.copy()  # a question is no Python
    line, column = context.cursor_line, context.cursor_position
    place = place_at(cell, line, column)
    result = None if place is None else _candidates(cell.verb, place)
    if result is None and (path_at(cell, line, column) or ("",))[0] in _SHELL_KEYS:
        fragment = re.split(r"[\s=:'\"]", context.text_until_cursor)[-1]
        result = _result(fragment, _files(fragment))
    return result or _NOTHING_HERE.copy()


def _candidates(verb: str, place: Place) -> SimpleMatcherResult | None:
    fragment, found = place.fragment, []
    if place.takes_key:
        helps = {f"{key}:": text for key, text in keys_of(verb, *place.path).items()}
        found.append(_Found(helps, "property"))
    if place.takes_value and place.path:
        fragment, values = _values(verb, place)
        found.append(values)
    return _result(fragment, *found)


def _values(verb: str, place: Place) -> tuple[str, _Found]:
    if place.path in _GPU_PATHS:
        return _gpu(place.fragment)
    if place.path[-1] in _NAMES_OF_KEYS:
        names, kind = _NAMES_OF_KEYS[place.path[-1]]
        return place.fragment, _Found.of(names.recall(), kind)
    return place.fragment, _Found.of(words_of(verb, *place.path), "value")


def _gpu(fragment: str) -> tuple[str, _Found]:
    """Return what may go on a GPU such as `nvidia:A100,H1`: its last part, and all names."""
    last = re.split(r"[:,]", fragment)[-1].lstrip()
    vendors = dict.fromkeys(words_of("task", "resources", "gpu", "vendor"), "vendor")
    names = dict.fromkeys(known_names.GPUS.recall(), "name")
    return last, _Found({**names, **vendors}, "GPU")


def _files(fragment: str) -> _Found:
    return _Found.of(known_names.files_beginning(fragment), "file")


def _result(fragment: str, *found: _Found | None) -> SimpleMatcherResult | None:
    """Return what of *found* fits; None where nothing does."""
    is_page = hasattr(get_ipython(), "kernel")
    fitting = [
        SimpleCompletion(text=word, type=one.kind if is_page else _short(text))
        for one in found
        if one is not None
        for word, text in one.helps.items()
        if _fits(word, fragment)
    ]
    if not fitting:
        return None
    return {"completions": fitting, "matched_fragment": fragment, "suppress": True}


def _fits(word: str, fragment: str) -> bool:
    return word.lower().startswith(fragment.lower())


def _short(text: str) -> str:
    """Return the first thing that a line of help says."""
    first = re.split(r"[;:.](?:\s|$)", text, maxsplit=1)[0].replace("`", "")
    return first if len(first) <= LONGEST_HELP else first[: LONGEST_HELP - 1].rstrip() + "…"
