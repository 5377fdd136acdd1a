"""What is given to people, built as they would build it, and environments to install it into.

Built without the machine's Node.js, from what git would keep. That takes a minute, so what is built
is kept in `.build`, by the content it was built from, for the next test that asks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.commands import REPOSITORY, output

KEPT = REPOSITORY / ".build"
#: What the build reads; of the rest nothing may matter.
INPUTS = [
    "pyproject.toml",
    "hatch_build.py",
    ".gitignore",
    "README.md",
    "LICENSE",
    "dstack_jupyter",
    "engine",
    "jupyter-config",
    "labextension",
]
COLOUR = re.compile(r"\x1b\[\d*m")
NODE = {"node", "nodejs", "npm", "npx", "corepack", "yarn", "yarnpkg", "pnpm", "jlpm"}


@dataclass(frozen=True)
class Distributions:
    """An sdist, the wheel that was built from it, and what the build said."""

    sdist: Path
    wheel: Path
    log: str


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own; what runs in it finds no Node.js."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def install(self, *what: str | Path) -> None:
        """Install with pip; raises `AssertionError` with its last words."""
        self.run("python", "-m", "pip", "install", "--quiet", *map(str, what))

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run one of its programs and return all it prints; it has to succeed."""
        return run([self.folder / "bin" / program, *arguments], self.folder)


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Run *command* with no Node.js on PATH; return what it prints, errors too, without colours."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": str(without_node()), "PYTHONPATH": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return COLOUR.sub("", done.stdout)


def distributions() -> Distributions:
    """Return the sdist and the wheel of the tree as it is now."""
    sources = _sources()
    folder = KEPT / f"distributions-{_digest(sources)}"
    with _lock():
        if not (folder / "log").exists():
            _forget("distributions-*")
            _build(sources, folder)
    [sdist] = folder.glob("*.tar.gz")
    [wheel] = folder.glob("*.whl")
    return Distributions(sdist, wheel, (folder / "log").read_text())


def environment(folder: Path) -> Environment:
    """Make an environment in *folder* with nothing but pip."""
    output([sys.executable, "-m", "venv", folder])
    return Environment(folder)


def without_node() -> Path:
    """Return a folder for PATH that has all programs of this machine but Node.js."""
    folder = KEPT / "path-without-node"
    if not folder.exists():
        making = KEPT / f"path-without-node.{os.getpid()}"
        making.mkdir(parents=True)
        for program in _programs():
            if program.name not in NODE and not (making / program.name).exists():
                (making / program.name).symlink_to(program)
        try:
            making.rename(folder)
        except OSError:  # another worker was faster
            shutil.rmtree(making)
    return folder


def _programs() -> Iterator[Path]:
    ours = Path(sys.prefix)
    for each in os.environ["PATH"].split(os.pathsep):
        folder = Path(each)
        if each and folder.is_dir() and not folder.is_relative_to(ours):
            yield from (path for path in folder.iterdir() if path.is_file())


def _sources() -> list[str]:
    listed = output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *INPUTS],
        cwd=REPOSITORY,
    )
    return sorted(name for name in listed.split("\0") if name and (REPOSITORY / name).is_file())


def _digest(sources: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in sources:
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256((REPOSITORY / name).read_bytes()).digest())
    return digest.hexdigest()[:16]


def _build(sources: Sequence[str], folder: Path) -> None:
    tree = KEPT / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for name in sources:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, tree / name)
    log = run([sys.executable, "-m", "build", "--outdir", folder, tree], tree)
    (folder / "log").write_text(log)
    shutil.rmtree(tree)


def _forget(pattern: str) -> None:
    for old in KEPT.glob(pattern):
        shutil.rmtree(old)


@contextmanager
def _lock() -> Iterator[None]:
    KEPT.mkdir(exist_ok=True)
    with (KEPT / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
