"""Where configurations and profiles lie in a project, and reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dstack_engine.errors import ArgumentError, ConfigurationError, NotFound, Problem
from dstack_engine.spec.configurations import Configuration
from dstack_engine.spec.parsing import parse_configuration, parse_profiles
from dstack_engine.spec.profiles import Profiles
from dstack_engine.spec.texts import MAX_BYTES

#: A configuration's name where none is given, in this order.
DEFAULT_NAMES: Final = (".dstack.yml", ".dstack.yaml")
PROFILE_NAMES: Final = (".dstack/profiles.yml", ".dstack/profiles.yaml")


def find_configuration_file(project_dir: Path, given: str | Path | None = None) -> Path:
    """Return the configuration's file: *given*, seen from *project_dir*, or the default one there.

    Raises `ArgumentError` for a name that a configuration cannot have or that lies outside of the
    project, `NotFound` where there is no such file.
    """
    if given is None:
        for name in DEFAULT_NAMES:
            if (project_dir / name).is_file():
                return project_dir / name
        raise NotFound(
            f"there is no .dstack.yml in {project_dir}; name a configuration with -f FILE"
        )
    path = project_dir / Path(given).expanduser()
    if not path.name.endswith(DEFAULT_NAMES):
        raise ArgumentError(
            f"{path.name} cannot be a configuration: its name is .dstack.yml, or ends in "
            ".dstack.yml or .dstack.yaml, as in train.dstack.yml"
        )
    if not path.resolve().is_relative_to(project_dir.resolve()):
        raise ArgumentError(
            f"{given} lies outside of the project {project_dir}, which a run takes with it"
        )
    if not path.is_file():
        raise NotFound(f"there is no file {given} in {project_dir}")
    return path


def read_bounded(path: Path) -> bytes:
    """Return what *path* holds, as far as a configuration can be long and a byte more."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def load_configuration(path: Path) -> Configuration:
    """Return the configuration in *path*; raise `ConfigurationError` also if it cannot be read."""
    try:
        text = read_bounded(path)
    except OSError as error:
        problem = Problem(0, 0, "", f"{path} cannot be read: {error.strerror or error}")
        raise ConfigurationError([problem], file=str(path)) from error
    return parse_configuration(text, file=str(path))


def load_profiles(project_dir: Path, home: Path) -> Profiles:
    """Return the profiles of the project and, after them, those in *home*, the author's own.

    Raises `ConfigurationError` for a file with mistakes in it.
    """
    profiles = Profiles(profiles=())
    for folder in (project_dir, home):
        path = next((folder / name for name in PROFILE_NAMES if (folder / name).is_file()), None)
        if path is not None:
            profiles = profiles.with_more(
                parse_profiles(read_bounded(path), file=str(path)).profiles
            )
    return profiles
