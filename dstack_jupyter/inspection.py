"""Shift-Tab in a `%%dstack` cell: what the key, the option or the verb at the cursor means.

A front end asks the kernel what stands at the cursor (`inspect_request`), and ipykernel hands the
whole cell to the kernel's `do_inspect`, the method that kernels are meant to have of their own.
`magics` puts `KeyInspection` before it and takes it away again; other cells go on as before. Light
on purpose: what it needs is imported when somebody first asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Reply = dict[str, Any]


class KeyInspection:
    """A kernel's `do_inspect` that knows our cells, and hands on all others."""

    def __init__(self, kernel: Any) -> None:
        """Take the place of *kernel*'s own; `remove` gives it back."""
        self._kernel = kernel
        self._was_set = "do_inspect" in vars(kernel)
        self._beyond: Callable[..., Any] = kernel.do_inspect
        self._active = True
        kernel.do_inspect = self

    def __call__(self, code: str, cursor_pos: int | None = None, *more: Any, **named: Any) -> Any:
        """Return the reply to an `inspect_request`; from the kernel itself if it is not ours."""
        if self._active and "%%dstack" in code:
            help_here = help_at(code, len(code) if cursor_pos is None else cursor_pos)
            if help_here is not None:
                return {"status": "ok", "found": True, "data": help_here, "metadata": {}}
        return self._beyond(code, cursor_pos, *more, **named)

    def remove(self) -> None:
        """Give the kernel its own back; one that was put before this since then stays."""
        self._active = False
        if vars(self._kernel).get("do_inspect") is not self:
            return
        if self._was_set:
            self._kernel.do_inspect = self._beyond
        else:
            del self._kernel.do_inspect


def help_at(code: str, cursor: int) -> Reply | None:
    """Return the help for what stands at *cursor*, by its MIME types; None if nothing of ours."""
    from dstack_jupyter.cells import path_at, read_cell  # noqa: PLC0415

    cell = read_cell(code)
    if cell is None or cell.verb is None:
        return None
    before = code[:cursor]
    line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
    if line == cell.first:
        return _of_word(cell.lines[line], column, cell.verb)
    if line < cell.first:
        return None
    path = path_at(cell, line, column)
    return None if path is None else _of_key(cell.verb, path)


def key_asked_in(line: str, body: str) -> str | None:
    """Return `task.resources.gpu` if a line of *body* asks for that key: `gpu?`."""
    if "?" not in body:
        return None
    from dstack_engine.spec.keys import describe_key  # noqa: PLC0415
    from dstack_jupyter.cells import question_in, read_cell  # noqa: PLC0415

    cell = read_cell(f"%%dstack {line}\n{body}")
    path = None if cell is None or cell.verb is None else question_in(cell)
    if cell is None or cell.verb is None or path is None:
        return None
    return None if describe_key(cell.verb, *path) is None else ".".join((cell.verb, *path))


def _of_key(verb: str, path: tuple[str, ...]) -> Reply | None:
    from dstack_engine.spec.keys import describe_key  # noqa: PLC0415
    from dstack_jupyter.rendering.keys import key_markdown, key_text  # noqa: PLC0415

    # Within a mapping of the author's own names (`env`) the key that holds it is told.
    for length in range(len(path), 0, -1):
        described = describe_key(verb, *path[:length])
        if described is not None:
            return {"text/plain": key_text(described), "text/markdown": key_markdown(described)}
    return None


def _of_word(line: str, column: int, verb: str) -> Reply | None:
    """Return the help for the option at *column* of the first line, or else for its verb."""
    from dstack_jupyter.commands.table import COMMANDS, NOTEBOOK  # noqa: PLC0415

    command = next((one for one in COMMANDS if one.name == verb), None)
    if command is None:
        return None
    parser = command.parser(NOTEBOOK)
    start = line.rfind(" ", 0, column) + 1
    word = line[start:].split(" ", 1)[0].split("=", 1)[0]
    text = parser.option_helps().get(word)
    return {"text/plain": f"{word}\n{text}" if text else parser.format_help()}
