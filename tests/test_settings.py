"""The user's `config.yml`: defaults, values, and errors with their place."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dstack_engine.errors import ConfigurationError
from dstack_engine.home import Home
from dstack_engine.settings import Settings, load_settings, parse_settings


def problem(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings(text)
    return caught.value.problems[0].render().splitlines()[0]


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    settings = load_settings(Home(tmp_path))
    assert settings == Settings()
    assert settings.default_image == "python:{version}-slim"
    assert settings.log_limit_bytes == 256 << 20
    assert settings.files_limit_bytes == 512 << 20
    assert settings.max_files == 50_000
    assert settings.keep_ended == timedelta(days=30)
    assert settings.local.max_jobs >= 1
    assert settings.own_python.startswith("3.")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_file_says_nothing(text: str) -> None:
    assert parse_settings(text) == Settings()


def test_what_is_written_is_taken(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.config.write_text(
        "default_image: my/python:{version}\ndefault_python: 3.10\nlog_limit: 1MB\n"
        "files_limit: 2GB\nkeep_ended_for: 1w\nport: 9999\n"
        "local:\n  max_jobs: 3\n  docker_host: unix:///run/other.sock\n  docker: no\n"
    )
    settings = load_settings(home)
    assert settings.default_image == "my/python:{version}"
    assert settings.own_python == "3.10"
    assert settings.log_limit_bytes == 1 << 20
    assert settings.files_limit_bytes == 2 << 30
    assert settings.keep_ended == timedelta(weeks=1)
    assert settings.port == 9999
    assert settings.local.max_jobs == 3
    assert settings.local.docker_host == "unix:///run/other.sock"
    assert settings.local.docker is False


def test_off_keeps_for_ever() -> None:
    assert parse_settings("keep_ended_for: off").keep_ended > timedelta(days=36_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "defualt_image: x",
            "line 1, column 1: defualt_image: is not a known key; did you mean `default_image`?",
        ),
        (
            "port: 1\nlocal:\n  max_job: 3\n",
            "line 3, column 3: local.max_job: is not a known key; did you mean `max_jobs`?",
        ),
        (
            "local: {max_jobs: 0}",
            "line 1, column 19: local.max_jobs: must be 1 or more, not 0",
        ),
        (
            "log_limit: lots",
            "line 1, column 12: log_limit: 'lots' is not a size; "
            "the units are MB, GB and TB, as in `16GB`",
        ),
        (
            "log_limit: -1GB",
            "line 1, column 12: log_limit: must be a size greater than 0, such as `256MB`, "
            "not '-1GB'",
        ),
        (
            "gpu_image: 'a b'",
            "line 1, column 12: gpu_image: must be the name of an image, not 'a b'",
        ),
        ("port: 70000", "line 1, column 7: port: must be 65535 or less, not 70000"),
        (
            "- a\n- b\n",
            "line 1, column 1: settings are a mapping, not a list; "
            "write `key: value` on a line of its own",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_a_suggestion(text: str, expected: str) -> None:
    assert problem(text) == expected


def test_all_that_is_wrong_is_told_at_once_with_the_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.config.write_text("prot: 1\nmax_files: many\nport: 1\nport: 2\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(home)
    assert [found.line for found in caught.value.problems] == [1, 2, 4]
    assert caught.value.file == str(home.config)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.config.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_settings(home)


def test_the_gateways_port_and_processes_are_set_together() -> None:
    assert (Settings().gateway.port, Settings().gateway.processes) == (4180, 1)
    gateway = parse_settings("gateway: {port: 8099, processes: 2}").gateway
    assert (gateway.port, gateway.processes) == (8099, 2)
    assert "port" in problem("gateway: {port: 0}")
    assert "prots" in problem("gateway: {prots: 1}")
