"""From text to a configuration; from mistakes to places, keys and suggestions."""

from __future__ import annotations

import json
import subprocess
import sys
from textwrap import dedent

import pytest

from dstack_engine.errors import ConfigurationError, Problem
from dstack_engine.spec.configurations import (
    CONFIGURATION_TYPES,
    Configuration,
    DevEnvironmentConfiguration,
    ServiceConfiguration,
    TaskConfiguration,
    effective_spot_policy,
)
from dstack_engine.spec.parsing import configuration_from_dict, parse_configuration
from dstack_engine.spec.scalars import OFF

TASK = """\
type: task
name: train
python: 3.10
env:
  - TOKEN
  - EPOCHS=10
commands:
  - pip install -r requirements.txt
  - python train.py ${{ run.args }}
ports: [8080, "*:6006", 22:22]
resources:
  gpu: 24GB..40GB:1..2
max_duration: off
"""


def problems(text: str | bytes, **arguments: object) -> tuple[Problem, ...]:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(text, **arguments)  # type: ignore[arg-type]
    return caught.value.problems


def task(text: str) -> TaskConfiguration:
    configuration = parse_configuration(dedent(text), expected_type="task")
    assert isinstance(configuration, TaskConfiguration)
    return configuration


def test_a_task_is_read_whole() -> None:
    read = task(TASK)

    assert (read.name, read.python, read.nodes) == ("train", "3.10", 1)
    assert read.env == {"TOKEN": None, "EPOCHS": "10"}
    assert [str(port) for port in read.ports] == ["8080:8080", "*:6006", "22:22"]
    assert read.resources.gpu is not None
    assert (str(read.resources.gpu.memory), str(read.resources.gpu.count)) == ("24..40", "1..2")
    assert read.max_duration == OFF


def test_what_the_author_wrote_can_be_told_from_the_defaults() -> None:
    read = task(TASK)

    assert read.wrote("env")
    assert not read.wrote("image")
    assert read.resources.wrote("gpu")
    assert not read.resources.wrote("disk")
    assert str(read.resources.memory) == "8.."


@pytest.mark.parametrize(
    "text",
    [
        TASK,
        "type: task\nimage: x\nretry: no\nidle_duration: off\nenv: {A: b}",
        "type: task\nimage: x\nretry: yes\nresources: {gpu: 'nvidia:H100,A100:80GB', disk: null}",
        "type: service\nimage: x\nport: 80\nmodel: m\nreplicas: 0..4\n"
        "scaling: {metric: rps, target: 1.5}\nprobes: [{url: /health}]",
        "type: service\nimage: x\nport: 1:2\ngateway: false\n"
        "rate_limits: [{rps: 1, key: {type: header, header: H}}]",
        "type: dev-environment\nide: cursor\ninactivity_duration: 2h",
        "type: fleet\nssh_config: {user: u, hosts: [a, {hostname: b, blocks: auto}]}",
        "type: gateway\nbackend: aws\nregion: r\ncertificate: {type: acm, arn: a}",
        "type: volume\nbackend: aws\nregion: r\nsize: 1TB",
    ],
)
def test_a_configuration_survives_json_and_still_knows_what_was_written(text: str) -> None:
    before = parse_configuration(text)
    after = configuration_from_dict(json.loads(before.model_dump_json()))

    assert after == before
    assert written_keys(after) == written_keys(before)


def written_keys(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [written_keys(below) for below in value]
    fields = getattr(value, "model_fields_set", None)
    return fields and {key: written_keys(getattr(value, key)) for key in sorted(fields)}


def test_all_mistakes_of_a_text_come_at_once_each_in_its_place() -> None:
    text = """\
        type: task
        comands:
          - python train.py
        resources:
          gpus: 2
          cpu: 4..1
        spot_policy: atuo
        nodes: 0
        nodes: 2
        """

    found = problems(dedent(text))

    assert [(one.line, one.column, one.key) for one in found] == [
        (2, 1, "comands"),
        (5, 3, "resources.gpus"),
        (6, 8, "resources.cpu"),
        (7, 14, "spot_policy"),
        (8, 8, "nodes"),
        (9, 1, "nodes"),
    ]
    assert [one.suggestion for one in found[:4]] == [
        "did you mean `commands`?",
        "did you mean `gpu`?",
        "`1..4`?",
        "did you mean `auto`?",
    ]


def test_a_mistake_is_shown_with_its_line_and_a_caret() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration("type: task\nimage: x\nspot_policy: atuo\n")

    assert caught.value.render() == (
        "line 3, column 14: spot_policy: must be spot, on-demand or auto, not 'atuo'; "
        "did you mean `auto`?\n"
        "    spot_policy: atuo\n"
        "                 ^"
    )


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("", 1, "", "the text is empty"),
        ("- a", 1, "", "a configuration is a mapping"),
        ("type: tsk", 1, "type", "did you mean `task`?"),
        ("image: x", 1, "type", "`type` is required"),
        ("type: task\nimage: x\ngpu: 24GB", 3, "gpu", "`gpu` belongs under `resources`"),
        ("type: task\nimage: x\nresources:\n  nodes: 2", 4, "resources.nodes", "the indentation"),
        ("type: service\nimage: x\nport: 1\nnodes: 2", 4, "nodes", "only task and fleet can have"),
        ("type: dev-environment\ncommands: [a]", 2, "commands", "has `init`"),
        ("type: service\nimage: x", 1, "port", "`port` is required"),
        ("type: task\ncommands: a", 2, "commands", "must be a list, not 'a'"),
        ("type: task\ncommands:\n- echo a: b", 3, "commands[0]", "with `: ` in it needs quotes"),
        ("type: task\nimage: x\nenv:\n- A: b", 4, "env[0]", "leave out the `- `"),
        ("type: service\nimage: x\nprot: 1", 3, "prot", "did you mean `port`?"),
        ("type: task\ncommands: [a\nimage: x", 2, "", "the list is not closed"),
        ("type: task\ncommands: ['a]\nimage: x", 2, "", "a quotation mark is not closed"),
        ("type: task\ncommands:\n- *.py", 3, "", "needs quotes"),
        ("type: task\ncommands: [yes]", 2, "commands[0]", "put it in quotes"),
        ("type: task\nimage: x\npython: 3.11", 3, "python", "exclude each other"),
        ("type: task\nimage: x\npython: 3.7", 3, "python", "must be one of 3.8"),
        ("type: task\nimage: x\nports: [1, 70000]", 3, "ports[1]", "between 1 and 65535"),
        ("type: task\nimage: x\nenv: [A, A=1]", 3, "env[1]", "given twice"),
        ("type: task\nimage: x\nenv:\n  A: true", 4, "env.A", "must be text, not true"),
        ("type: task\nimage: x\nmax_duration: 1h30m", 3, "max_duration", "one number and one unit"),
        ("type: task\nimage: x\nretry: {duration: off}", 3, "retry.duration", "cannot be `off`"),
        ("type: task\nimage: x\nretry: {on_events: [eror]}", 3, "retry.on_events[0]", "`error`?"),
        ("type: task\nimage: x\nresources: {gpu: 'A100:H100'}", 3, "resources.gpu", "twice"),
        ("type: task\nimage: x\nresources: {gpu: '80xx:2'}", 3, "resources.gpu", "not a size"),
        ("type: task\nimage: x\nregistry_auth: {username: u}", 3, "registry_auth.password", "requ"),
        ("type: task\nimage: x\nmodel: m", 3, "model", "only service can have `model`"),
        ("type: service\nimage: x\nport: 1\nreplicas: 1..2", 4, "replicas", "needs `scaling`"),
        (
            "type: gateway\nbackend: aws\nregion: r\ncertificate: {type: x}",
            4,
            "certificate.type",
            "",
        ),
        ("type: task\nimage: x\ntags: {a: [b]}", 3, "tags.a", "must be text, not a list"),
        ("type: task\ncommands: ['${{ run.arg }}']", 2, "commands[0]", "is not known here"),
        ("type: task\ncommands: ['${{ env.A }}']", 2, "commands[0]", "write $A"),
        ("type: task\ncommands: ['${{ run.args']", 2, "commands[0]", "is not closed"),
    ],
)
def test_a_mistake_says_where_and_what(text: str, line: int, key: str, words: str) -> None:
    found = problems(text)

    assert len(found) == 1
    assert (found[0].line, found[0].key) == (line, key)
    assert words in found[0].sentence


def test_no_mistake_speaks_of_the_library_that_found_it() -> None:
    for kind in CONFIGURATION_TYPES:
        for value in ("1", "[1]", "{a: 1}", "null", "1.5", "x", "yes"):
            keys = [key for key in CONFIGURATION_TYPES[kind].model_fields if key != "type"]
            text = f"type: {kind}\n" + "".join(f"{key}: {value}\n" for key in keys)
            for problem in problems(text):
                assert "nput" not in problem.message, problem
                assert "valid " not in problem.message, problem
                assert "cannot be " not in problem.message.replace("cannot be `off`", ""), problem


def test_a_cell_lends_its_type_to_a_body_without_one() -> None:
    read = parse_configuration("commands: [a]", expected_type="task", name="mine")

    assert (read.type, read.name) == ("task", "mine")


def test_a_body_of_another_type_than_its_cell_says_so() -> None:
    (found,) = problems("type: service\nport: 1", expected_type="task", first_line=2)

    assert found.line == 2
    assert "this cell is `%%dstack task` but its body says `type: service`" in found.message


def test_lines_are_counted_from_where_the_body_begins_in_its_cell() -> None:
    (found,) = problems("commands: [a]\nprot: 1", expected_type="task", first_line=2)

    assert (found.line, found.suggestion) == (3, "did you mean `ports`?")


def test_secrets_can_be_referred_to_and_bash_can_have_its_dollars() -> None:
    read = task("commands: ['echo ${{ secrets.TOKEN }} $$ ${HOME} $${{ x }}']")

    assert read.commands == ("echo ${{ secrets.TOKEN }} $$ ${HOME} $${{ x }}",)


def test_unquoted_off_is_no_limit_and_never_nothing() -> None:
    read = task("image: x\nmax_duration: off\nidle_duration: off\nstop_duration: off")

    assert (read.max_duration, read.idle_duration, read.stop_duration) == (OFF, OFF, OFF)


def test_anchors_and_merge_keys_are_yaml_as_anyone_knows_it() -> None:
    read = task(
        """\
        image: x
        env: &env {A: one, B: two}
        tags:
          <<: *env
          B: three
        """
    )

    assert read.tags == {"A": "one", "B": "three"}


def test_spot_machines_are_for_what_can_be_started_again() -> None:
    service = parse_configuration("type: service\nimage: x\nport: 1")
    editor = parse_configuration("type: dev-environment")

    assert isinstance(service, ServiceConfiguration)
    assert isinstance(editor, DevEnvironmentConfiguration)
    assert effective_spot_policy(service) == "auto"
    assert effective_spot_policy(editor) == "on-demand"


def test_a_configuration_keeps_its_secrets_from_its_repr() -> None:
    read: Configuration = task(
        "image: x\nenv: {TOKEN: s3cret}\nregistry_auth: {username: u, password: s3cret}"
    )

    assert "s3cret" not in repr(read)


def test_a_dict_with_mistakes_names_keys_and_no_lines() -> None:
    with pytest.raises(ConfigurationError) as caught:
        configuration_from_dict({"type": "task", "image": "x", "nodes": 0, "prot": 1})

    assert {(one.line, one.key) for one in caught.value.problems} == {(0, "nodes"), (0, "prot")}
    assert "line 0" not in caught.value.render()


def test_parsing_needs_pydantic_and_yaml_and_nothing_else_of_ours() -> None:
    script = (
        "import sys; import dstack_engine.spec.parsing, dstack_engine.spec.validation;"
        "print([name for name in ('sqlalchemy', 'fastapi', 'docker', 'httpx', 'IPython', 'asyncio')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
