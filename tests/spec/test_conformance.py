"""The language agrees with what dstack's parsers answered, case by case.

`config-cases.json` holds inputs with the answers of two versions: `ok` of 0.18.11 and, where it was
asked, `ok_latest`. Where both agree, so do we. Where they differ, the wider wins for new forms and
for keys that the newest dropped, the stricter for what the older took by accident.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from dstack_engine.errors import ArgumentError, ConfigurationError
from dstack_engine.spec.configurations import (
    ServiceConfiguration,
    TaskConfiguration,
)
from dstack_engine.spec.environment import Environment
from dstack_engine.spec.interpolation import InterpolationError, interpolate
from dstack_engine.spec.names import check_name
from dstack_engine.spec.parsing import configuration_from_dict, parse_profiles
from dstack_engine.spec.ports import parse_port
from dstack_engine.spec.profiles import Retry
from dstack_engine.spec.resources import Disk, Gpu, IntRange, Memory, MemoryRange, Resources
from dstack_engine.spec.scalars import Duration

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "config-cases.json").read_text(encoding="utf-8")
)

#: Keys that the newest dropped; they are in the documents that people follow.
DROPPED = ("task.retry_policy", "task.termination_", "task.pool_name", "task.instance_name")

#: Cases whose answer the newest was not asked for, or where the policy names its own answer:
#: what the older took by accident is refused.
ACCIDENTS: dict[tuple[str, str], str] = {
    ("duration", "3.7"): "a fraction",
    ("duration_field(retry.duration)", "3.7"): "a fraction",
    ("duration_field(retry.duration)", "true"): "a boolean",
    ("duration_field(retry.duration)", '"-5"'): "negative",
    ("port_mapping.parse", '"65536"'): "a port too high",
    ("env", '["1A=1"]'): "a bad name",
    ("env", '[""]'): "a bad name",
    ("env", '["A=x\\ny"]'): "a line break in a list's entry, as in task.env",
}

#: Our own backends are taken besides.
OURS = {("task.backends", '["ssh"]')}


def expected(case: dict[str, Any]) -> bool:
    """Return whether the policy accepts the case."""
    kind, written = case["kind"], json.dumps(case["input"])
    if (kind, written) in OURS:
        return True
    if (kind, written) in ACCIDENTS:
        return False
    old, new = case["ok"], case.get("ok_latest", case["ok"])
    if old == new or kind.startswith(DROPPED):
        return bool(old)
    # Only the newest: a wider form, accepted. Only the older: an accident, refused.
    return bool(new)


def run_with(kind: str, key: str, value: Any) -> Any:
    """Return the configuration of *kind* that has *key*, from its other necessary parts."""
    base: dict[str, Any] = {"type": kind, "commands": ["x"]}
    if kind == "service":
        base["port"] = 80
    configuration = configuration_from_dict({**base, key: value})
    return getattr(configuration, key)


def replicas_and_scaling(value: dict[str, Any]) -> ServiceConfiguration:
    configuration = configuration_from_dict(
        {"type": "service", "commands": ["x"], "port": 80, **value}
    )
    assert isinstance(configuration, ServiceConfiguration)
    return configuration


def max_duration(value: Any) -> Any:
    configuration = configuration_from_dict(
        {"type": "task", "commands": ["x"], "max_duration": value}
    )
    assert isinstance(configuration, TaskConfiguration)
    return configuration.max_duration


READERS: dict[str, Callable[[Any], Any]] = {
    "range_int": IntRange.model_validate,
    "range_memory": MemoryRange.model_validate,
    # A size stands alone only where it may be left out too.
    "memory": TypeAdapter(Memory | None).validate_python,
    "disk": TypeAdapter(Disk | None).validate_python,
    "gpu": Gpu.model_validate,
    "compute_capability": lambda value: Gpu.model_validate({"compute_capability": value}),
    "resources": Resources.model_validate,
    "duration": TypeAdapter(Duration).validate_python,
    "duration_field(retry.duration)": lambda value: Retry.model_validate({"duration": value}),
    "max_duration_func": max_duration,
    "port_mapping.parse": parse_port,
    "env": TypeAdapter(Environment).validate_python,
    "resource_name": check_name,
    "configuration": configuration_from_dict,
    "profiles.yml": lambda value: parse_profiles(json.dumps(value)),
    "service.replicas+scaling": replicas_and_scaling,
    "interpolate{run.args=qwerty,skip=secrets}": lambda value: interpolate(
        value, {"run.args": "qwerty"}
    ),
}
REFUSALS = (ConfigurationError, ArgumentError, ValidationError, InterpolationError)


def read(kind: str, value: Any) -> Any:
    """Read *value* as what *kind* says."""
    if kind in READERS:
        return READERS[kind](value)
    run, _, key = kind.partition(".")
    return run_with(run, key, value)


def plain(value: Any) -> Any:
    """Return our value in the shape in which the cases are written."""
    if isinstance(value, BaseModel):
        return {key: plain(getattr(value, key)) for key in type(value).model_fields}
    if isinstance(value, dict):
        return {key: plain(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(below) for below in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def meaning(kind: str, value: Any) -> Any:
    """Return what of *value*, ours, can be compared with the case's output."""
    if kind == "compute_capability":
        return list(value.compute_capability)
    if kind == "duration_field(retry.duration)":
        return value.duration
    if kind in ("env", "task.env"):
        return {k: {"key": k} if v is None else v for k, v in value.items()}
    if kind == "task.retry" and value is not None:
        return value.ever
    if kind == "service.replicas+scaling":
        return {"replicas": plain(value.replicas), "scaling": plain(value.scaling)}
    if kind == "interpolate{run.args=qwerty,skip=secrets}":
        return {"text": value.text, "missing": list(value.missing)}
    return plain(value)


def agrees(ours: Any, theirs: Any) -> bool:
    """Return whether *ours* holds all of *theirs*; keys that only we have do not matter."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        # `ssh_key` is what the other's server adds, not what an author writes.
        keys = theirs.keys() - {"ssh_key"}
        return all(key in ours and agrees(ours[key], theirs[key]) for key in keys)
    if isinstance(theirs, list) and isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(agrees, ours, theirs))
    return bool(ours == theirs)


#: Where our value for the same meaning is written otherwise.
OTHERWISE: dict[tuple[str, str], Any] = {
    ("max_duration_func", "false"): "off",
    ("task.max_duration", "7200"): 7200,
    # No limit, in both.
    ("task.max_duration", "0"): "off",
    ("resource_name", json.dumps("x" * 41)): "x" * 41,
}


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{n}-{case['kind']}-{case['input']}"[:60] for n, case in enumerate(CASES)]
)
def test_the_answer_is_that_of_the_policy(case: dict[str, Any]) -> None:
    kind, written = case["kind"], json.dumps(case["input"])
    if not expected(case):
        with pytest.raises(REFUSALS):
            read(kind, case["input"])
        return
    ours = meaning(kind, read(kind, case["input"]))
    if (kind, written) in OTHERWISE:
        assert ours == OTHERWISE[kind, written]
    elif case["ok"] and kind not in ("configuration", "profiles.yml"):
        assert agrees(ours, case["output"]), (ours, case["output"])


WHOLE = [case for case in CASES if case["kind"] == "configuration" and case["ok"]]


@pytest.mark.parametrize("case", WHOLE, ids=[json.dumps(case["input"])[:60] for case in WHOLE])
def test_a_whole_configuration_means_the_same(case: dict[str, Any]) -> None:
    ours = plain(configuration_from_dict(case["input"]))
    theirs = case["output"]
    if "env" in theirs:
        theirs = {
            **theirs,
            "env": {k: None if isinstance(v, dict) else v for k, v in theirs["env"].items()},
        }
    hosts = (theirs.get("ssh_config") or {}).get("hosts")
    if hosts:
        whole = [{"hostname": host} if isinstance(host, str) else host for host in hosts]
        theirs = {**theirs, "ssh_config": {**theirs["ssh_config"], "hosts": whole}}
    assert agrees(ours, theirs), (ours, theirs)


def test_every_difference_between_the_versions_is_decided_on_purpose() -> None:
    known = {(case["kind"], json.dumps(case["input"])) for case in CASES}
    assert set(ACCIDENTS) | OURS | set(OTHERWISE) <= known
