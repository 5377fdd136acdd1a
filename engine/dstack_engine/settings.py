"""The user's settings: `config.yml` in the home, read once when the engine starts.

Everything has a default, so the file need not be there. A wrong key or value is an error with its
line and a suggestion, as in a configuration.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated, Final

from pydantic import Field, PlainValidator, ValidationError

from dstack_engine.errors import ConfigurationError, Problem
from dstack_engine.home import Home
from dstack_engine.records.publication import GATEWAY_PORT
from dstack_engine.spec.configurations import PYTHON_VERSIONS
from dstack_engine.spec.documents import Document, read_document
from dstack_engine.spec.problems import sentences
from dstack_engine.spec.resources import read_memory
from dstack_engine.spec.scalars import (
    OFF,
    Boolean,
    DurationOrOff,
    Off,
    SpecModel,
    Text,
    WholeBetween,
    shown,
    wrong,
)

_BYTES_IN_GB: Final = 1 << 30

#: Longer than anything is kept; `off` for `keep_ended`.
_FOR_EVER: Final = timedelta(days=36_500)


def _read_size(value: object) -> float:
    size = read_memory(value)
    if not 0 < size < 1 << 20:
        raise wrong(f"must be a size greater than 0, such as `256MB`, not {shown(value)}")
    return size


def _read_image(value: object) -> str:
    if not isinstance(value, str) or not value or any(letter.isspace() for letter in value):
        raise wrong(f"must be the name of an image, not {shown(value)}")
    return value


def _read_python(value: object) -> str:
    # YAML has no way to tell 3.10 from 3.1, so the number 3.1 means 3.10.
    text = "3.10" if isinstance(value, float) and value == 3.1 else str(value)
    if text not in PYTHON_VERSIONS:
        raise wrong(f"must be one of {', '.join(PYTHON_VERSIONS)}, not {shown(value)}")
    return text


#: A size that is greater than 0, in GB.
Size = Annotated[float, PlainValidator(_read_size)]
Image = Annotated[str, PlainValidator(_read_image)]


class LocalSettings(SpecModel):
    """How this computer serves runs."""

    max_jobs: Annotated[int, WholeBetween(1, 10_000)] = Field(
        default=50, description="As many jobs run here at once; more wait."
    )
    docker_host: Text | None = Field(
        default=None,
        description="Address of the Docker Engine, as in `unix:///var/run/docker.sock`; "
        "what DOCKER_HOST says, else that socket, if left out.",
    )
    docker: Boolean = Field(default=True, description="Whether to use a Docker Engine at all.")


class GatewaySettings(SpecModel):
    """Where services and models are reached on this computer."""

    port: Annotated[int, WholeBetween(1, 65_535)] = Field(
        default=GATEWAY_PORT,
        description="Port of the gateway on loopback; the next free one if taken.",
    )
    processes: Annotated[int, WholeBetween(1, 64)] = Field(
        default=1, description="As many processes share its work."
    )


class Settings(SpecModel):
    """What the user may set in `config.yml`."""

    default_image: Image = Field(
        default="python:{version}-slim",
        description="Image of runs that name none; `{version}` is the version of Python.",
    )
    gpu_image: Image = Field(
        default="dstackai/base:py{version}-0.6-cuda-12.1",
        description="Image of runs that name none and ask for a GPU.",
    )
    nvcc_image: Image = Field(
        default="dstackai/base:py{version}-0.6-cuda-12.1-devel",
        description="Image of runs that name none and ask for `nvcc`.",
    )
    default_python: Annotated[str, PlainValidator(_read_python)] | None = Field(
        default=None, description="Version of Python where none is written; the engine's own."
    )
    log_limit: Size = Field(
        default=0.25, description="What is kept of a job's output; cut in the middle beyond."
    )
    files_limit: Size = Field(default=0.5, description="Most that a project's files may be.")
    max_files: Annotated[int, WholeBetween(1, 10_000_000)] = Field(
        default=50_000, description="As many files a project may have."
    )
    keep_ended_for: DurationOrOff = Field(
        default=30 * 86_400,
        description="How long containers, files and output of ended runs are kept; `30d`.",
    )
    port: Annotated[int, WholeBetween(0, 65_535)] = Field(
        default=0, description="Port of the engine on loopback; any free one for 0."
    )
    local: LocalSettings = Field(
        default=LocalSettings(), description="How this computer serves runs."
    )
    gateway: GatewaySettings = Field(
        default=GatewaySettings(), description="Where services and models are reached."
    )

    @property
    def log_limit_bytes(self) -> int:
        """Return what is kept of a job's output, in bytes."""
        return int(self.log_limit * _BYTES_IN_GB)

    @property
    def files_limit_bytes(self) -> int:
        """Return the most that a project's files may be, in bytes."""
        return int(self.files_limit * _BYTES_IN_GB)

    @property
    def keep_ended(self) -> timedelta:
        """Return how long what is left of ended runs is kept; a hundred years for `off`."""
        kept: int | Off = self.keep_ended_for
        return _FOR_EVER if kept == OFF else timedelta(seconds=int(kept))

    @property
    def own_python(self) -> str:
        """Return the version of Python for runs that write none, as in `3.11`."""
        if self.default_python is not None:
            return self.default_python
        own = f"{sys.version_info.major}.{sys.version_info.minor}"
        return own if own in PYTHON_VERSIONS else PYTHON_VERSIONS[-1]


def load_settings(home: Home) -> Settings:
    """Return the settings of *home*; the defaults where it has no `config.yml`.

    Raises `ConfigurationError` with every problem of the file.
    """
    try:
        text = home.config.read_bytes()
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        problem = Problem(1, 1, "", f"cannot be read: {error.strerror}")
        raise ConfigurationError([problem], file=str(home.config)) from error
    return parse_settings(text, file=str(home.config))


def parse_settings(text: str | bytes, *, file: str | None = None) -> Settings:
    """Return the settings in *text*; raise `ConfigurationError` with every problem of it."""
    document = read_document(text, file=file)
    written = {} if document.value is None else document.value
    if not isinstance(written, dict):
        words = f"settings are a mapping, not {shown(written)}"
        problem = document.problem((), words, "write `key: value` on a line of its own")
        raise ConfigurationError([problem], file=file)
    try:
        settings = Settings.model_validate(written)
    except ValidationError as error:
        raise ConfigurationError(_problems(document, error, written), file=file) from None
    if document.problems:
        raise ConfigurationError(document.problems, file=file)
    return settings


def _problems(
    document: Document, error: ValidationError, written: dict[str, object]
) -> list[Problem]:
    found = [
        document.problem(one.path, one.message, one.suggestion, at_key=one.at_key)
        for one in sentences(error, Settings, written)
    ]
    return sorted([*document.problems, *found], key=lambda problem: (problem.line, problem.column))
