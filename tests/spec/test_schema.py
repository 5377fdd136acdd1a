"""The published schema takes what the parser takes, and is up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dstack_engine.spec.configurations import CONFIGURATION_TYPES
from dstack_engine.spec.documents import read_document
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_engine.spec.reference import reference
from dstack_engine.spec.schema import configuration_schema, keys_of, schema_text, words_of

DOCS = Path(__file__).parents[2] / "docs"
CASES = json.loads((Path(__file__).parent / "config-cases.json").read_text(encoding="utf-8"))

WHOLE = [case["input"] for case in CASES if case["kind"] == "configuration" and case["ok"]]
IN_A_TASK = [
    {"type": "task", "commands": ["x"], case["kind"].removeprefix("task."): case["input"]}
    for case in CASES
    if case["kind"].startswith("task.") and case["ok"] and case.get("ok_latest", True)
]
EXAMPLES = [
    "type: task\ncommands: [x]\nretry: {on_events: [error], duration: 1h}\nmax_duration: off",
    "type: task\ncommands: [x]\npython: 3.11\nresources: {gpu: {name: [A100, H100], count: 1..2}}",
    "type: service\nimage: x\nport: 8000\nmodel: m\nreplicas: 1..4\n"
    "scaling: {metric: rps, target: 10, window: 30s}\nprobes: [{url: /}]\nrate_limits: [{rps: 2}]",
    "type: dev-environment\nide: vscode\ninactivity_duration: off",
]


def check(value: Any) -> None:
    jsonschema.Draft202012Validator(configuration_schema()).validate(value)


@pytest.mark.parametrize("value", WHOLE + IN_A_TASK, ids=lambda value: json.dumps(value)[:60])
def test_the_schema_takes_what_the_parser_takes(value: dict[str, Any]) -> None:
    configuration_from_dict(value)
    check(value)


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_schema_takes_the_examples(text: str) -> None:
    value = read_document(text).value
    configuration_from_dict(value)
    check(value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"type": "job"},
        {"type": "task", "comands": ["a"]},
        {"type": "service", "image": "x"},
        {"type": "task", "image": "x", "spot_policy": "atuo"},
        {"type": "task", "image": "x", "resources": {"gpus": 1}},
    ],
)
def test_the_schema_refuses_mistakes(value: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(value)


def test_the_published_schema_and_reference_are_fresh() -> None:
    again = "run `python -m dstack_engine.spec.schema`"
    published = (DOCS / "configuration.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), again
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(CONFIGURATION_TYPES), again


def test_every_key_has_a_line_of_help() -> None:
    def models(schema: dict[str, Any]) -> list[dict[str, Any]]:
        inner = [schema, *schema.get("anyOf", [])]
        return [one for one in inner if "properties" in one]

    for name, definition in configuration_schema()["$defs"].items():
        for model in models(definition):
            for key, value in model["properties"].items():
                assert value.get("description"), f"{name}.{key}"


def test_completion_can_ask_for_keys_and_words() -> None:
    assert keys_of("task")["commands"].startswith("Commands to run")
    assert set(keys_of("task", "resources", "gpu")) >= {"name", "count", "memory"}
    assert words_of("task", "spot_policy") == ("spot", "on-demand", "auto")
    assert keys_of("task", "nothing") == {}
    assert keys_of("nothing") == {}
