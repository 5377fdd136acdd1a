"""Tab inside `%dstack` and `%%dstack`: verbs, options, names of runs and models, and
the body's YAML.

One matcher of IPython's completer (`magics` registers it). It answers from what is known: names of
runs come from a short-lived memory that a thread fills, and are waited for 50 ms at most.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult

from dstack_engine.errors import DstackError
from dstack_engine.spec.schema import keys_of, words_of
from dstack_jupyter.arguments import Parser
from dstack_jupyter.commands.table import COMMANDS, NOTEBOOK, Command
from dstack_jupyter.session import session

#: The longest that a completion waits for the engine, and how long names are remembered; seconds.
PATIENCE = 0.05
MEMORY = 2.0

_CELL = re.compile(r"\s*%%dstack\s(.*)")
_LINE = re.compile(r"\s*(?:[\w, ]+=\s*)?%dstack\s(.*)")
_KEY = re.compile(r"(?P<indent>\s*(?:- +)*)(?P<key>[A-Za-z_]+)\s*:(?P<rest>\s.*|)$")
_NO_MATCH: SimpleMatcherResult = {"completions": [], "suppress": False}


def match(context: CompletionContext) -> SimpleMatcherResult:
    """Return what may stand at the cursor; nothing outside our lines and cells."""
    lines = context.full_text.split("\n")
    first = next((at for at, line in enumerate(lines) if line.strip()), 0)
    cell = _CELL.match(lines[first])
    if cell is not None and context.cursor_line > first:
        if cell[1].split()[:1] == ["chat"]:
            return {"completions": [], "suppress": True}  # a question is no Python
        return _body(cell[1].split()[:1], lines[first + 1 : context.cursor_line], context)
    before = context.text_until_cursor
    found = _CELL.match(before) if cell is not None else _LINE.match(before)
    if found is None:
        return _NO_MATCH
    return _result(*_words(found[1], in_cell=cell is not None))


@dataclass(frozen=True)
class _Found:
    """What may stand at the cursor, of one kind."""

    words: Iterable[str]
    kind: str


def _words(text: str, *, in_cell: bool) -> tuple[str, _Found | None]:
    *before, fragment = re.split(r"\s+", text.lstrip())
    if not before:
        names = (
            command.name
            for command in COMMANDS
            if command.has_body is in_cell or command.may_have_body
        )
        return fragment, _Found(names, "verb")
    command = next((command for command in COMMANDS if command.name == before[0]), None)
    if command is None or "--" in before:
        return fragment, None
    parser = command.parser(NOTEBOOK)
    if fragment.startswith("-"):
        return fragment, _Found([*parser.option_strings(), "--help"], "option")
    if before[-1].startswith("-") and parser.takes_value(before[-1]):
        return fragment, _Found(parser.choices_of(before[-1]), "value")
    return fragment, _positional(command, parser, before)


def _positional(command: Command, parser: Parser, before: list[str]) -> _Found | None:
    if command.name == "help":
        return _Found((one.name for one in COMMANDS), "verb")
    if command.name == "engine":
        return _Found(parser.choices_of("action"), "action")
    places = {action.dest: action.nargs for action in parser._actions if not action.option_strings}
    if command.name == "chat" and len(before) == 1:
        return _Found(MODELS.recall(), "model")
    already = sum(not word.startswith("-") for word in before[1:])
    if "runs" in places or ("run" in places and already == 0):
        return _Found(NAMES.recall(), "run")
    return None


def _body(verb: list[str], above: list[str], context: CompletionContext) -> SimpleMatcherResult:
    if not verb:
        return _NO_MATCH
    before = context.text_until_cursor
    if (pair := _KEY.match(before)) is not None:
        path = (*_path_above(above, len(pair["indent"])), pair["key"])
        fragment = pair["rest"].strip()
        return _result(fragment, _Found(words_of(verb[0], *path), "value"))
    found = re.fullmatch(r"(\s*(?:- +)*)([A-Za-z_]*)", before)
    if found is None:
        return {"completions": [], "suppress": True}  # Python's names have no place in YAML
    path = _path_above(above, len(found[1]))
    keys = (f"{key}:" for key in keys_of(verb[0], *path))
    return _result(found[2], _Found(keys, "property"))


def _path_above(lines: list[str], indent: int) -> tuple[str, ...]:
    """Return the keys under which a line of that indent stands."""
    path: list[str] = []
    for line in reversed(lines):
        found = _KEY.match(line)
        if found is not None and len(found["indent"]) < indent:
            if not found["rest"].strip():
                path.insert(0, found["key"])
            indent = len(found["indent"])
        if indent == 0:
            break
    return tuple(path)


def _result(fragment: str, found: _Found | None) -> SimpleMatcherResult:
    if found is None:
        return _NO_MATCH
    fitting = [word for word in found.words if word.startswith(fragment)]
    return {
        "completions": [SimpleCompletion(text=word, type=found.kind) for word in fitting],
        "matched_fragment": fragment,
        "suppress": bool(fitting),
    }


@dataclass
class Names:
    """The names of the engine's runs, or of its models, as they were a moment ago."""

    fetch: Callable[[], list[str]]
    _known: list[str] = field(default_factory=list)
    _since: float = -MEMORY
    _fetching: threading.Thread | None = None

    def recall(self) -> list[str]:
        """Return the names, asked anew if they are old; waits `PATIENCE` at most."""
        if monotonic() - self._since >= MEMORY:
            if self._fetching is None or not self._fetching.is_alive():
                self._fetching = threading.Thread(target=self._renew, daemon=True)
                self._fetching.start()
            self._fetching.join(PATIENCE)
        return self._known

    def _renew(self) -> None:
        try:
            self._known = self.fetch()
        except DstackError:
            self._known = []  # no engine, no names; Tab never starts one
        self._since = monotonic()


def _fetch_names() -> list[str]:
    runs = session().client(start=False).runs(everything=True)
    return [view.name for view in runs]


NAMES = Names(_fetch_names)


def _fetch_models() -> list[str]:
    return [model.name for model in session().client(start=False).models()]


MODELS = Names(_fetch_models)
