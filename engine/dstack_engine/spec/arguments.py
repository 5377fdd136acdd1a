"""What the command line adds: overrides, variables, ports, and the run's own arguments.

The magics and the `dstack-jupyter` command call `merge_arguments` last, before a plan is made;
what it returns is complete and goes to the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from posixpath import normpath
from typing import Any, Final, TypeVar, cast

from dstack_engine.errors import ArgumentError, ConfigurationError, Problem
from dstack_engine.spec.configurations import Configuration, RunConfiguration
from dstack_engine.spec.environment import write_environment
from dstack_engine.spec.interpolation import InterpolationError, interpolate, references
from dstack_engine.spec.names import check_name
from dstack_engine.spec.parsing import configuration_from_dict
from dstack_engine.spec.ports import PortMapping, parse_port
from dstack_engine.spec.scalars import shown
from dstack_engine.spec.secrets import refuse_secrets

C = TypeVar("C", bound=RunConfiguration)

#: Which argument gives which key.
_ARGUMENTS: Final = {
    "gpu": "resources.gpu",
    "memory": "resources.memory",
    "cpu": "resources.cpu",
    "disk": "resources.disk",
}
_INTERPOLATED: Final = ("setup", "commands")


def merge_arguments(
    configuration: C,
    *,
    name: str | None = None,
    env: Sequence[str] = (),
    ports: Sequence[str] = (),
    gpu: str | None = None,
    memory: str | None = None,
    cpu: str | None = None,
    disk: str | None = None,
    max_price: float | str | None = None,
    spot_policy: str | None = None,
    backends: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    instance_types: Sequence[str] | None = None,
    max_duration: str | int | None = None,
    retry: bool | str | Mapping[str, object] | None = None,
    creation_policy: str | None = None,
    fleets: Sequence[str] | None = None,
    run_args: Sequence[str] = (),
    environ: Mapping[str, str],
) -> C:
    """Return *configuration* with arguments merged, variables resolved, references filled in.

    *env* holds `NAME=value` or `NAME` (taken from *environ*); *ports* are as `parse_port` reads
    them, each in place of the mapping of the same container port; *run_args* is what
    `${{ run.args }}` becomes.
    Raises `ArgumentError` for an argument that cannot be, and `ConfigurationError` for what is
    wrong with the configuration now that it is used: its name, its secrets, variables not set,
    a folder outside of the project.
    """
    refuse_secrets(configuration)
    _working_dir(configuration.working_dir)
    written = configuration.model_dump(mode="json", exclude_unset=True)
    overrides = {
        "max_price": max_price,
        "spot_policy": spot_policy,
        "backends": backends,
        "regions": regions,
        "instance_types": instance_types,
        "max_duration": max_duration,
        "retry": dict(retry) if isinstance(retry, Mapping) else retry,
        "creation_policy": creation_policy,
        "fleets": fleets,
    }
    written.update({key: value for key, value in overrides.items() if value is not None})
    resources = {"gpu": gpu, "memory": memory, "cpu": cpu, "disk": disk}
    if asked := {key: value for key, value in resources.items() if value is not None}:
        written["resources"] = {**written.get("resources", {}), **asked}
    _name(written, name)
    _ports(written, configuration, ports)
    _environment(written, configuration.env, env, environ)
    _fill_in(written, run_args)
    given = {key for key, value in {**overrides, **resources}.items() if value is not None}
    complete = cast(C, _rebuild(written, given))
    _amd_image(complete)
    return complete


def _rebuild(written: dict[str, Any], given: set[str]) -> Configuration:
    try:
        return configuration_from_dict(written)
    except ConfigurationError as error:
        keys = {_ARGUMENTS.get(key, key): key for key in given}
        for problem in error.problems:
            for key, argument in keys.items():
                if problem.key == key or problem.key.startswith((f"{key}.", f"{key}[")):
                    option = argument.replace("_", "-")
                    raise ArgumentError(f"--{option}: {problem.sentence}") from None
        raise


def _name(written: dict[str, Any], name: str | None) -> None:
    if name is not None:
        written["name"] = check_name(name)
    elif written.get("name") is not None:
        try:
            check_name(written["name"])
        except ArgumentError as error:
            raise ConfigurationError([Problem(0, 0, "name", error.message)]) from None


def _working_dir(folder: str | None) -> None:
    if folder is not None and normpath(folder).split("/")[0] == "..":
        hint = "it is seen from the project's root"
        message = f"{shown(folder)} lies outside of the project"
        raise ConfigurationError([Problem(0, 0, "working_dir", message, hint)])


def _amd_image(configuration: RunConfiguration) -> None:
    gpu = configuration.resources.gpu
    if gpu is not None and gpu.vendor == "amd" and configuration.image is None:
        message = "an AMD GPU needs an `image`; the default images are for NVIDIA"
        hint = "as in `image: rocm/pytorch`"
        raise ConfigurationError([Problem(0, 0, "resources.gpu", message, hint)])


def _ports(
    written: dict[str, Any], configuration: RunConfiguration, arguments: Sequence[str]
) -> None:
    known: tuple[PortMapping, ...] | None = getattr(configuration, "ports", None)
    if known is None:
        if arguments:
            raise ArgumentError(f"a {configuration.type} has no ports to set with --port")
        return
    added = [parse_port(argument) for argument in arguments]
    replaced = {port.container_port for port in added}
    merged = [port for port in known if port.container_port not in replaced] + added
    _refuse_doubles("container port", (port.container_port for port in merged))
    _refuse_doubles(
        "local port", (port.local_port for port in merged if port.local_port is not None)
    )
    if merged:
        written["ports"] = [port.model_dump(mode="json") for port in merged]


def _refuse_doubles(what: str, ports: Iterable[int]) -> None:
    doubles = sorted(port for port, times in Counter(ports).items() if times > 1)
    if doubles:
        named = ", ".join(str(port) for port in doubles)
        raise ConfigurationError([Problem(0, 0, "ports", f"the {what} {named} is given twice")])


def _environment(
    written: dict[str, Any],
    known: Mapping[str, str | None],
    arguments: Sequence[str],
    environ: Mapping[str, str],
) -> None:
    variables = dict(known)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name.isidentifier() or not name.isascii():
            raise ArgumentError(f"--env: {shown(argument)} is neither NAME=value nor NAME")
        variables[name] = value if equals else None
    missing = sorted(
        name for name, value in variables.items() if value is None and name not in environ
    )
    if missing:
        names, they = ", ".join(missing), "them" if len(missing) > 1 else "it"
        kind = "variables are" if len(missing) > 1 else "variable is"
        raise ConfigurationError(
            [
                Problem(
                    0,
                    0,
                    "env",
                    f"environment {kind} not set: {names}",
                    f"set {they} or pass -e {missing[0]}=…",
                )
            ]
        )
    if variables:
        written["env"] = write_environment(
            {name: environ[name] if value is None else value for name, value in variables.items()}
        )


def _fill_in(written: dict[str, Any], run_args: Sequence[str]) -> None:
    texts = [text for key in _INTERPOLATED for text in written.get(key, ())]
    try:
        taken = any(
            str(reference) == "run.args" for text in texts for reference in references(text)
        )
        if run_args and not taken:
            raise ArgumentError(
                f"unknown arguments: {' '.join(run_args)}",
                hint="no command has ${{ run.args }} to take them",
            )
        arguments = {"run.args": " ".join(run_args)}
        for key in _INTERPOLATED:
            if key in written:
                written[key] = [
                    _filled(f"{key}[{n}]", text, arguments) for n, text in enumerate(written[key])
                ]
        _fill_in_login(written)
    except InterpolationError as error:
        raise ConfigurationError([Problem(0, 0, "commands", str(error))]) from None


def _fill_in_login(written: dict[str, Any]) -> None:
    login = written.get("registry_auth")
    if login is None:
        return
    env: Mapping[str, str] = written.get("env", {})
    variables = {f"env.{name}": value for name, value in env.items()}
    written["registry_auth"] = {
        key: _filled(f"registry_auth.{key}", text, variables) for key, text in login.items()
    }


def _filled(key: str, text: str, variables: Mapping[str, str]) -> str:
    done = interpolate(text, variables)
    if done.missing:
        named = ", ".join(done.missing)
        hint = "name it in `env`" if key.startswith("registry_auth") else None
        raise ConfigurationError([Problem(0, 0, key, f"nothing is known of {named}", hint)])
    return done.text
