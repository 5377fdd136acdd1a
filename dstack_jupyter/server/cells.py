"""A run's cell: its configuration written as an author would, without the values of secrets.

Pure. Called by `handlers`; the cell says the same as the configuration, which is read back to
make sure.
"""

from __future__ import annotations

from typing import Any

import yaml

from dstack_engine.errors import ConfigurationError
from dstack_engine.records.runs import Run
from dstack_engine.spec.parsing import configuration_from_dict, parse_configuration
from dstack_engine.spec.schema import keys_of

#: Keys whose numbers are gigabytes.
_SIZES = frozenset({"memory", "total_memory", "size", "shm_size"})
_DURATIONS = frozenset(
    {"max_duration", "duration", "stop_duration", "idle_duration", "interval", "timeout", "window"}
    | {"scale_up_delay", "scale_down_delay", "utilization_window"}
)
_UNITS = (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60))
_GPU = ("vendor", "name", "memory", "count")


def cell_of(run: Run) -> str:
    """Return a cell that starts a run like *run*; variables are named without their values."""
    configuration = run.without_secrets().configuration
    kind = configuration.type
    written = configuration.model_dump(mode="json", exclude_unset=True)
    remarks = []
    if written.get("env"):
        written["env"] = sorted(configuration.env)
        remarks.append("# env: the values are taken from the notebook's environment")
    if written.pop("registry_auth", None) is not None:
        remarks.append("# registry_auth is left out: a password does not belong in a notebook")
    written["type"] = kind
    body = _in_order(kind, _escaped(written))
    text = _yaml(_short(body))
    if not _says(text, kind, written):
        text = _yaml(body)
    return "\n".join([f"%%dstack {kind}", *remarks, text])


def _says(text: str, kind: str, written: dict[str, Any]) -> bool:
    """Tell whether *text* is read as what is *written*."""
    try:
        read = parse_configuration(text, expected_type=kind)
        return read == configuration_from_dict(_escaped(written))
    except ConfigurationError:
        return False


def _in_order(kind: str, written: dict[str, Any]) -> dict[str, Any]:
    """Return the keys in the order of the reference; `type` is said by the magic."""
    known = [key for key in keys_of(kind) if key in written]
    ordered = {key: written[key] for key in (*known, *written) if key != "type"}
    return {"name": ordered.pop("name"), **ordered} if "name" in ordered else ordered


def _escaped(written: dict[str, Any]) -> dict[str, Any]:
    """Return *written* with its references filled in already: what looks like one is none."""
    texts = {
        key: [text.replace("${{", "$${{") for text in written[key]]
        for key in ("setup", "commands")
        if isinstance(written.get(key), list)
    }
    return {**written, **texts}


def _short(value: Any, key: str = "") -> Any:
    """Return *value* in the short forms of the language, wherever there is one."""
    if isinstance(value, list):
        return [_short(one, f"{key}[]") for one in value]
    if not isinstance(value, dict):
        return _number(value, key)
    if value.keys() == {"min", "max"}:
        return _range(value, key)
    if value.keys() == {"local_port", "container_port"}:
        return _port(value, key)
    short = {name: _short(one, name) for name, one in value.items()}
    if key == "gpu" and short.keys() <= {*_GPU}:
        return _gpu(short)
    if key == "disk" and short.keys() == {"size"}:
        return short["size"]
    if key == "model" and {**short, "name": ""} == {"type": "chat", "format": "openai", "name": ""}:
        return short["name"]
    return short


def _number(value: Any, key: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if key in _SIZES:
        return f"{value:g}GB"
    if key in _DURATIONS:
        unit = next((unit for unit in _UNITS if value and value % unit[1] == 0), ("s", 1))
        return f"{value // unit[1]:g}{unit[0]}"
    return int(value) if value == int(value) else value


def _range(value: dict[str, Any], key: str) -> Any:
    least, most = (None if value[end] is None else _number(value[end], key) for end in value)
    if least == most:
        return least
    return f"{'' if least is None else least}..{'' if most is None else most}"


def _port(value: dict[str, Any], key: str) -> Any:
    local, inner = value["local_port"], value["container_port"]
    if local == inner or (key == "port" and local == 80):
        return inner
    return f"{'*' if local is None else local}:{inner}"


def _gpu(parts: dict[str, Any]) -> str | int:
    names = parts.get("name")
    words = {**parts, "name": ",".join(names) if isinstance(names, list) else names}
    text = ":".join(str(words[key]) for key in _GPU if words.get(key) is not None)
    return int(text) if text.isdecimal() else text


class _Writer(yaml.SafeDumper):
    """Writes texts of several lines as they read."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _write_text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _write_text)


def _yaml(body: dict[str, Any]) -> str:
    if not body:
        return ""
    return yaml.dump(body, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=10_000)
