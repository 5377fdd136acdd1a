"""The script that looks into a machine, and its answers.

The script (`machine_script.sh`) needs nothing on the machine but a POSIX shell. Each line of its
answer begins with a word made up for this one look, so that neither a greeting of the login shell
nor what a program prints can be taken for an answer. Used by `machine_examination`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds after which the script gives up a part that hangs. Without persistence mode the driver
#: of eight GPUs takes several to wake.
PATIENCE = 10

#: Where Docker keeps images and containers unless it is told otherwise.
DOCKER_ROOT = "/var/lib/docker"

_SCRIPT = Path(__file__).with_name("machine_script.sh")


def script_text(mark: str, root: str = DOCKER_ROOT, patience: int = PATIENCE) -> str:
    """Return the script to be run by `sh`.

    *mark* is a word of letters and digits that nobody can guess, *root* Docker's folder.
    """
    head = f"mark={shlex.quote(mark)}\nroot={shlex.quote(root)}\npatience={patience}\n"
    return head + _SCRIPT.read_text()


@dataclass(frozen=True)
class Answers:
    """What the script told, part by part."""

    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def part(self, name: str) -> Sequence[str]:
        """Return what the part printed, without empty lines."""
        return self.lines.get(name, ())

    def facts(self, name: str) -> dict[str, str]:
        """Return a part's lines of the form ``KEY=value``; what has no value is left out."""
        pairs = (line.partition("=") for line in self.part(name))
        return {key: value.strip().strip("\"'") for key, _, value in pairs if value.strip()}

    def names(self, name: str, key: str) -> set[str]:
        """Return all values of a key that a part may tell several times."""
        return {line[len(key) + 1 :] for line in self.part(name) if line.startswith(f"{key}=")}

    def code(self, name: str) -> int | None:
        """Return the part's exit code; None when it hung or was not told."""
        told = "".join(self.part(f"{name}.end")).strip()
        return int(told) if told.isdigit() else None

    def why(self, name: str) -> str:
        """Return the first words that the part said before it failed."""
        said = [*self.part(f"{name}.err"), *self.part(name)]
        return said[0][:200] if said else "it does not say why"

    @property
    def complete(self) -> bool:
        """Tell whether the script came to its end."""
        return "over" in self.lines


def read_answers(output: str, mark: str) -> Answers:
    """Return the answers in what the script's session printed; other lines are passed over."""
    form = re.compile(rf"{re.escape(mark)} ([a-z][a-z.-]*) (.*)")
    lines: dict[str, list[str]] = {}
    for line in output.splitlines():
        found = form.fullmatch(line)
        if found and found[2].strip():
            lines.setdefault(found[1], []).append(found[2])
    return Answers(lines)


def clock_ahead(answers: Answers, began: float, ended: float) -> float | None:
    """Return how far the machine's clock is ahead of ours, in seconds.

    *began* and *ended* are our times, in seconds since 1970, around the script. It told its own at
    its start and end, so only the way there and back is uncertain; half of it is taken for each.
    """
    told = [_seconds(line) for line in answers.part("clock")]
    if len(told) != 2 or told[0] is None or told[1] is None:
        return None
    return round((told[0] + told[1]) / 2 - (began + ended) / 2, 3)


def _seconds(text: str) -> float | None:
    """Read ``1795282960.25``; a `date` that knows no fractions leaves its ``%N`` or ``N``."""
    found = re.match(r"\d{1,12}(\.\d+)?", text)
    return float(found[0]) if found else None
