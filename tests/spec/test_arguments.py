"""What the command line adds to a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from dstack_engine.errors import ArgumentError, ConfigurationError
from dstack_engine.spec.arguments import merge_arguments
from dstack_engine.spec.configurations import TaskConfiguration
from dstack_engine.spec.parsing import configuration_from_dict, parse_configuration
from dstack_engine.spec.profiles import effective_retry


def a_task(**keys: Any) -> TaskConfiguration:
    configuration = configuration_from_dict({"type": "task", "commands": ["x"], **keys})
    assert isinstance(configuration, TaskConfiguration)
    return configuration


def merged(configuration: TaskConfiguration, **arguments: Any) -> TaskConfiguration:
    return merge_arguments(configuration, **{"environ": {}, **arguments})


def test_nothing_added_changes_nothing() -> None:
    before = a_task(resources={"gpu": "24GB"}, ports=[8080], env={"A": "b"})

    assert merged(before) == before
    assert merged(before).resources.model_fields_set == {"gpu"}


def test_arguments_go_before_what_the_file_says() -> None:
    after = merged(
        a_task(resources={"gpu": "24GB", "cpu": 2}, max_price=1, name="old"),
        name="new",
        gpu="A100:2",
        memory="16GB..",
        max_price="2.5",
        spot_policy="spot",
        backends=["local"],
        max_duration="2h",
        retry=True,
    )

    assert (after.name, after.max_price, after.spot_policy) == ("new", 2.5, "spot")
    assert (after.backends, after.max_duration) == (("local",), 7200)
    assert after.resources.gpu is not None
    assert after.resources.gpu.name == ("A100",)
    assert after.resources.model_fields_set == {"gpu", "cpu", "memory"}
    assert effective_retry(after) is not None


def test_a_port_takes_the_place_of_the_same_container_port() -> None:
    after = merged(a_task(ports=[8080, 6006]), ports=["80:8080", "*:9000"])

    assert [str(port) for port in after.ports] == ["6006:6006", "80:8080", "*:9000"]


@pytest.mark.parametrize("ports", [[8080, 8080], ["80:1", "80:2"]])
def test_a_port_twice_is_refused_when_it_is_used(ports: list[object]) -> None:
    with pytest.raises(ConfigurationError, match="is given twice"):
        merged(a_task(ports=ports))


def test_variables_come_from_the_arguments_then_from_the_author() -> None:
    after = merged(
        a_task(env=["TOKEN", "HOME", "KEPT=1"]),
        env=["TOKEN=given", "USER"],
        environ={"TOKEN": "not this", "HOME": "/home/me", "USER": "me"},
    )

    assert after.env == {"TOKEN": "given", "HOME": "/home/me", "KEPT": "1", "USER": "me"}


def test_all_variables_that_are_not_set_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        merged(a_task(env=["B", "A"]), env=["C"], environ={"C": ""})

    (found,) = caught.value.problems
    assert "not set: A, B" in found.message


def test_the_runs_arguments_are_filled_in_as_they_are() -> None:
    after = merged(
        a_task(commands=["run ${{ run.args }}", "echo $$ $${{ x }}"], setup=["s ${{run.args}}"]),
        run_args=["--lr", "0.1"],
    )

    assert after.commands == ("run --lr 0.1", "echo $ ${{ x }}")
    assert after.setup == ("s --lr 0.1",)


def test_no_arguments_leave_nothing_where_they_would_be() -> None:
    assert merged(a_task(commands=["run ${{ run.args }}"])).commands == ("run ",)


def test_arguments_that_nothing_takes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="unknown arguments: --naem x"):
        merged(a_task(), run_args=["--naem", "x"])


def test_a_login_is_filled_in_from_the_resolved_environment() -> None:
    login = {"username": "me", "password": "${{ env.TOKEN }}"}
    after = merged(a_task(registry_auth=login, env=["TOKEN"]), environ={"TOKEN": "t$$"})

    assert after.registry_auth is not None
    assert after.registry_auth.password == "t$$"


def test_a_login_with_an_unknown_variable_is_refused() -> None:
    login = {"username": "me", "password": "${{ env.TOKEN }}"}
    with pytest.raises(ConfigurationError, match=r"registry_auth.password: .*env.TOKEN"):
        merged(a_task(registry_auth=login))


def test_a_secret_is_refused_by_name_and_place() -> None:
    before = a_task(
        commands=["ok", "use ${{ secrets.HF }}", "not $${{ secrets.ESCAPED }}"],
        env={"A": "${{ secrets.B }}"},
    )

    with pytest.raises(ConfigurationError) as caught:
        merged(before)

    assert {(one.key, one.message) for one in caught.value.problems} == {
        ("commands[1]", "secrets are not available yet: ${{ secrets.HF }}"),
        ("env.A", "secrets are not available yet: ${{ secrets.B }}"),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gpu": "A100:H100"}, "--gpu: "),
        ({"memory": "16GiB"}, "--memory: "),
        ({"disk": "4..1"}, "--disk: "),
        ({"max_price": -1}, "--max-price: must be greater than 0"),
        ({"backends": ["ec2"]}, "--backends: must be aws, "),
        ({"spot_policy": "atuo"}, "did you mean `auto`?"),
        ({"max_duration": "1h30m"}, "--max-duration: "),
        ({"env": ["1A=2"]}, "--env: "),
        ({"ports": ["8080:"]}, "is not a port"),
        ({"name": "My Run"}, "what about my-run?"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        merged(a_task(), **arguments)

    assert words in caught.value.message


def test_a_name_that_cannot_be_is_refused_when_it_is_used() -> None:
    with pytest.raises(ConfigurationError, match="name: 'My' cannot be a name"):
        merged(a_task(name="My"))


@pytest.mark.parametrize("folder", ["..", "../x", "a/../../b"])
def test_a_folder_outside_of_the_project_is_refused_when_it_is_used(folder: str) -> None:
    with pytest.raises(ConfigurationError, match=r"working_dir: .* lies outside of the project"):
        merged(a_task(working_dir=folder))


def test_a_folder_in_the_project_may_be_written_in_a_roundabout_way() -> None:
    assert merged(a_task(working_dir="a/../b")).working_dir == "a/../b"


def test_an_amd_gpu_needs_an_image() -> None:
    with pytest.raises(ConfigurationError, match="AMD GPU needs an `image`"):
        merged(a_task(resources={"gpu": "amd:MI300X"}))
    assert merged(a_task(image="rocm/pytorch"), gpu="amd").resources.wrote("gpu")


def test_a_service_has_no_ports_to_set() -> None:
    service = parse_configuration("type: service\nimage: x\nport: 1")
    with pytest.raises(ArgumentError, match="a service has no ports"):
        merge_arguments(service, ports=["1"], environ={})  # type: ignore[type-var]
