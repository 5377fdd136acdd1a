"""Profiles and files: where they lie, which wins, what is meant where nothing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dstack_engine.errors import ArgumentError, ConfigurationError, NotFound
from dstack_engine.spec.configurations import TaskConfiguration
from dstack_engine.spec.files import find_configuration_file, load_configuration, load_profiles
from dstack_engine.spec.parsing import configuration_from_dict, parse_profiles
from dstack_engine.spec.profiles import (
    Profile,
    apply_profile,
    effective_idle_duration,
    effective_max_duration,
    effective_retry,
    effective_stop_duration,
)


def a_task(**keys: Any) -> TaskConfiguration:
    configuration = configuration_from_dict({"type": "task", "commands": ["x"], **keys})
    assert isinstance(configuration, TaskConfiguration)
    return configuration


def profile(**keys: Any) -> Profile:
    return Profile.model_validate({"name": "p", **keys})


def test_a_profile_fills_in_what_the_configuration_leaves_out() -> None:
    after = apply_profile(
        a_task(max_price=1, regions=None), profile(max_price=2, regions=["r"], spot_policy="spot")
    )

    assert (after.max_price, after.regions, after.spot_policy) == (1, ("r",), "spot")
    assert after.wrote("spot_policy")


def test_a_profile_does_not_add_another_word_for_what_is_said() -> None:
    kept = apply_profile(
        a_task(termination_idle_time="1h", retry_policy={"retry": True}),
        profile(idle_duration="off", retry=False),
    )

    assert effective_idle_duration(kept) == 3600
    assert effective_retry(kept) is not None


def test_no_profile_changes_nothing() -> None:
    assert apply_profile(a_task(), None) == a_task()


@pytest.mark.parametrize(
    ("keys", "seconds"),
    [
        ({}, 300),
        ({"idle_duration": "1h"}, 3600),
        ({"idle_duration": 0}, 0),
        ({"idle_duration": False}, None),
        ({"idle_duration": -1}, None),
        ({"termination_idle_time": "3d"}, 259200),
        ({"termination_idle_time": "3d", "idle_duration": "1m"}, 60),
        ({"termination_policy": "dont-destroy"}, None),
        ({"termination_policy": "destroy-after-idle", "termination_idle_time": "off"}, None),
    ],
)
def test_how_long_an_idle_machine_is_kept(keys: dict[str, Any], seconds: int | None) -> None:
    assert effective_idle_duration(a_task(**keys)) == seconds


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        ({"retry": False}, None),
        ({"retry": False, "retry_policy": {"retry": True}}, None),
        ({"retry": True}, (3, 3600)),
        ({"retry": {"duration": "4h"}}, (3, 14400)),
        ({"retry": {"on_events": ["error"]}}, (1, 3600)),
        ({"retry_policy": {"duration": "2h"}}, (3, 7200)),
        ({"retry_policy": {}}, None),
    ],
)
def test_when_a_run_is_tried_again(keys: dict[str, Any], expected: tuple[int, int] | None) -> None:
    retry = effective_retry(a_task(**keys))

    assert (retry and (len(retry.on_events), retry.duration)) == expected


def test_how_long_a_run_may_last_and_take_to_stop() -> None:
    assert effective_max_duration(a_task()) is None
    assert effective_max_duration(a_task(max_duration=False)) is None
    assert effective_max_duration(a_task(max_duration="2h")) == 7200
    assert effective_stop_duration(a_task()) == 300
    assert effective_stop_duration(a_task(stop_duration=0)) == 0


def test_the_projects_profiles_come_before_the_authors(tmp_path: Path) -> None:
    project, home = tmp_path / "project", tmp_path / "home"
    write(project / ".dstack/profiles.yml", "profiles: [{name: a, max_price: 1}]")
    write(
        home / ".dstack/profiles.yml",
        "profiles: [{name: a, max_price: 2}, {name: b, default: true, max_price: 3}]",
    )

    profiles = load_profiles(project, home)

    assert [(one.name, one.max_price) for one in profiles.profiles] == [("a", 1), ("b", 3)]
    default = profiles.get(None)
    assert default is not None
    assert default.name == "b"
    with pytest.raises(NotFound, match="no such profile: c; there are a, b"):
        profiles.get("c")


def test_a_mistake_in_a_profile_has_its_place() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_profiles("profiles:\n  - name: a\n    max_prise: 1\n")

    (found,) = caught.value.problems
    assert (found.line, found.key) == (3, "profiles[0].max_prise")
    assert found.suggestion == "did you mean `max_price`?"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_default_configuration_is_found(tmp_path: Path) -> None:
    second = write(tmp_path / ".dstack.yaml", "type: task\nimage: x")
    assert find_configuration_file(tmp_path) == second

    first = write(tmp_path / ".dstack.yml", "type: task\nimage: y")
    assert find_configuration_file(tmp_path) == first


def test_a_configuration_may_lie_anywhere_in_the_project(tmp_path: Path) -> None:
    path = write(tmp_path / "deep/er/train.dstack.yml", "type: task\nimage: x")

    assert find_configuration_file(tmp_path, "deep/er/train.dstack.yml") == path
    assert load_configuration(path).type == "task"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("train.yml", "train.yml cannot be a configuration"),
        ("../x.dstack.yml", "lies outside of the project"),
    ],
)
def test_another_name_or_place_is_refused_in_a_sentence(
    tmp_path: Path, given: str, words: str
) -> None:
    write(tmp_path / "project" / "train.yml", "type: task")
    with pytest.raises(ArgumentError, match=words):
        find_configuration_file(tmp_path / "project", given)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no .dstack.yml"):
        find_configuration_file(tmp_path)
    with pytest.raises(NotFound, match=r"there is no file a.dstack.yml"):
        find_configuration_file(tmp_path, "a.dstack.yml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_configuration(tmp_path)
