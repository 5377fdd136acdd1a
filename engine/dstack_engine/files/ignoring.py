"""What of a project stays at home: `.gitignore` and `.dstackignore` where git itself cannot say.

The one home of pathspec; `files.walking` asks it. Files nearer to a path
win over those further up, and what lies in an ignored folder cannot be taken back, as in git.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

#: An ignore file is read so far, in bytes.
LARGEST_IGNORE_FILE = 1_000_000


@dataclass(frozen=True)
class IgnoreFile:
    """The rules of one ignore file, and how a project's path is written as seen from it."""

    spec: GitIgnoreSpec
    #: The folder that it lies in and speaks of, with a slash behind; empty for the project's own.
    inside: str = ""
    #: Put before a path: the way down to the project from an ignore file above it.
    prefix: str = ""

    def verdict(self, path: str) -> bool | None:
        """Return True for ignored, False for taken back, None for nothing said."""
        if not path.startswith(self.inside):
            return None
        return self.spec.check_file(self.prefix + path[len(self.inside) :]).include


#: The ignore files that count in one folder, the nearest last.
IgnoreRules = tuple[IgnoreFile, ...]


def is_ignored(path: str, rules: IgnoreRules, *, folder: bool = False) -> bool:
    """Tell whether *path*, relative to the project, is ignored; its parents are not looked at."""
    seen = f"{path}/" if folder else path
    for rule in reversed(rules):
        verdict = rule.verdict(seen)
        if verdict is not None:
            return verdict
    return False


def read_rules(name: str, folder: Path, inside: str, above: IgnoreRules = ()) -> IgnoreRules:
    """Return *above* with the rules of the ignore file *name* in *folder*, if there is one.

    *inside* is the folder as a path relative to the project, empty for the project itself.
    """
    spec = _read_spec(folder / name)
    return above if spec is None else (*above, IgnoreFile(spec, f"{inside}/" if inside else ""))


def read_rules_above(name: str, root: Path, top: Path) -> IgnoreRules:
    """Return the rules of the ignore files from *top* down to above *root*, the project."""
    rules: IgnoreRules = ()
    steps = root.relative_to(top).parts
    for count in range(len(steps)):
        spec = _read_spec(top.joinpath(*steps[:count], name))
        if spec is not None:
            rules = (*rules, IgnoreFile(spec, prefix="/".join(steps[count:]) + "/"))
    return rules


def _read_spec(file: Path) -> GitIgnoreSpec | None:
    """Return the rules in *file*, without the lines that are no rules; None when there are none."""
    try:
        if file.is_symlink() or not file.is_file():
            return None
        with file.open("rb") as stream:
            text = stream.read(LARGEST_IGNORE_FILE).decode("utf-8", "surrogateescape")
    except OSError:
        return None
    lines = text.removeprefix("\ufeff").splitlines()
    try:
        return GitIgnoreSpec.from_lines(lines)
    except ValueError:
        return GitIgnoreSpec.from_lines([line for line in lines if _is_rule(line)])


def _is_rule(line: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
