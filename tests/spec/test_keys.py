"""What a key means is told from the types, for every key that there is."""

from __future__ import annotations

import pytest

from dstack_engine.records.gpu_models import KNOWN
from dstack_engine.spec.configurations import CONFIGURATION_TYPES
from dstack_engine.spec.gpu_names import GPU_NAMES
from dstack_engine.spec.keys import KeyHelp, describe_key, find_keys
from dstack_engine.spec.schema import keys_of, words_of


def test_a_key_is_described_by_its_value_its_default_and_its_help() -> None:
    assert describe_key("task", "resources", "cpu") == KeyHelp(
        kind="task",
        path=("resources", "cpu"),
        help="CPUs; `2..` if left out.",
        value="A whole number (exactly that many) or a range of them: `4`, `2..8`, `2..`, `..8`.",
        default="2..",
        required=False,
        examples=(),
        keys={"min": "The least; open if left out.", "max": "The most; open if left out."},
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("priority",), "number from 0 to 100"),
        (("spot_policy",), "spot, on-demand, auto"),
        (("max_duration",), "duration or off"),
        (("auth",), "true or false"),
        (("commands",), "list of text"),
        (("probes",), "list, each one: A request that tells whether a replica is ready."),
    ],
)
def test_what_may_be_written_is_told_in_words(path: tuple[str, ...], value: str) -> None:
    described = describe_key("service", *path)
    assert described is not None
    assert described.value.replace("`", "") == value


def test_every_key_of_every_kind_has_a_help_and_a_value() -> None:
    for kind in CONFIGURATION_TYPES:
        for key in keys_of(kind):
            described = describe_key(kind, key)
            assert described is not None, (kind, key)
            assert described.help, (kind, key)
            assert described.value, (kind, key)


def test_an_unknown_key_means_nothing() -> None:
    assert describe_key("task", "nope") is None
    assert describe_key("nope", "name") is None
    assert describe_key("task") is None
    assert find_keys("nope") == find_keys("task.nope") == []


def test_a_key_is_found_by_its_last_name_and_by_its_whole_path() -> None:
    assert [key.path for key in find_keys("gpu")] == [("resources", "gpu")]
    assert [key.path for key in find_keys("resources.gpu")] == [("resources", "gpu")]
    assert [(key.kind, key.path) for key in find_keys("service.port")] == [("service", ("port",))]
    assert find_keys("name")[0].path == ("name",)


def test_a_key_of_yes_and_no_offers_both() -> None:
    assert words_of("service", "auth") == ("true", "false")
    assert words_of("service", "spot_policy") == ("spot", "on-demand", "auto")


def test_the_gpus_that_are_offered_include_all_that_this_computer_may_have() -> None:
    assert not set(KNOWN) - set(GPU_NAMES)
    assert len(set(GPU_NAMES)) == len(GPU_NAMES)
