"""A project listed by walking its folders under their ignore files, where git cannot say.

`files.tree` calls `walk` for a folder that is no git work tree, and `read_dstackignores` for one
that is. It imports pathspec (50 ms), so it is imported when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dstack_engine.files.ignoring import IgnoreRules, is_ignored, read_rules, read_rules_above
from dstack_engine.files.listing import (
    DSTACKIGNORE,
    GITIGNORE,
    NEVER_SENT,
    VENV_MARK,
    IsIgnored,
    Listing,
    check_count,
)

#: The rules of `.gitignore` and those of `.dstackignore`: either is enough to stay out.
BothRules = tuple[IgnoreRules, IgnoreRules]


def walk(root: Path, *, top: Path | None, max_files: int, left_out: Iterable[str]) -> Listing:
    """Return what belongs to *root* by its ignore files, and those above it up to *top*.

    Raises `TooLarge` as soon as there are more than *max_files* names.
    """
    above = () if top is None else read_rules_above(GITIGNORE, root, top)
    walking = _Walk(root, max_files, frozenset(left_out))
    # Nearest folders first, so that a walk cut short has seen all of the top.
    waiting: list[tuple[str, BothRules]] = [("", (above, ()))]
    for folder, rules in waiting:
        waiting.extend(walking.visit(folder, rules))
    return walking.listing


def read_dstackignores(root: Path, folders: list[str]) -> IsIgnored:
    """Return the question that the `.dstackignore` files in *folders* answer together."""
    rules: IgnoreRules = ()
    for folder in sorted(folders):
        rules = read_rules(DSTACKIGNORE, root / folder, folder, rules)
    return lambda path, folder: is_ignored(path, rules, folder=folder)


class _Walk:
    """One walk: what it found so far."""

    def __init__(self, root: Path, max_files: int, left_out: frozenset[str]) -> None:
        self.listing = Listing(root)
        self._max_files = max_files
        self._left_out = left_out

    def visit(self, folder: str, above: BothRules) -> list[tuple[str, BothRules]]:
        """Note the files in *folder*; return the folders in it that belong, and their rules."""
        try:
            with os.scandir(self.listing.root / folder) as scan:
                seen = [(item.name, item.is_dir(follow_symlinks=False)) for item in scan]
        except OSError:
            self.listing.unread.append(f"{folder}/")
            return []
        if folder and (VENV_MARK, False) in seen:
            return []
        rules = self._rules_in(folder, {name for name, _ in seen}, above)
        start = f"{folder}/" if folder else ""
        kept = [(start + name, is_folder) for name, is_folder in seen if name not in NEVER_SENT]
        kept = [item for item in kept if not _is_out(*item, rules)]
        self.listing.look(path for path, is_folder in kept if not is_folder)
        if folder and not kept:
            self.listing.empty_folders.append(folder)
        found = self.listing.found
        check_count(len(found) + len(self.listing.empty_folders), found, self._max_files)
        below = [path for path, is_folder in kept if is_folder and path not in self._left_out]
        return [(path, rules) for path in below]

    def _rules_in(self, folder: str, names: set[str], above: BothRules) -> BothRules:
        """Return the rules that count in *folder*, which holds *names*."""
        git, own = above
        place = self.listing.root / folder
        if GITIGNORE in names:
            git = read_rules(GITIGNORE, place, folder, git)
        if DSTACKIGNORE in names:
            own = read_rules(DSTACKIGNORE, place, folder, own)
        return git, own


def _is_out(path: str, is_folder: bool, rules: BothRules) -> bool:
    return any(rule and is_ignored(path, rule, folder=is_folder) for rule in rules)
