"""What a key means, as text and Markdown; `inspection` and `%dstack help KEY` show it."""

from __future__ import annotations

from dstack_engine.spec.keys import KeyHelp


def key_text(key: KeyHelp) -> str:
    """Return the help of *key*: its line, what may be written, the default, the keys below."""
    facts = [("value", key.value.replace("`", ""))]
    facts.append(("default", "none; required" if key.required else key.default or ""))
    facts.extend(("example", f"{key.path[-1]}: {example}") for example in key.examples)
    lines = [f"{'.'.join(key.path)}  (key of a {key.kind})", key.help, ""]
    lines += [f"{name + ':':<9} {fact}" for name, fact in facts if fact]
    if key.keys:
        width = max(len(name) for name in key.keys) + 2
        lines += ["", "keys below it:"]
        lines += [f"  {name:<{width}}{text}" for name, text in key.keys.items()]
    return "\n".join(lines)


def key_markdown(key: KeyHelp) -> str:
    """Return the same as Markdown."""
    facts = [f"**Value:** {key.value}"]
    if key.required:
        facts.append("**Required**")
    elif key.default:
        facts.append(f"**Default:** `{key.default}`")
    facts.extend(f"**Example:** `{key.path[-1]}: {example}`" for example in key.examples)
    parts = [f"**`{'.'.join(key.path)}`** – {key.help}", "  \n".join(facts)]
    if key.keys:
        parts.append("\n".join(f"* `{name}`: {text}" for name, text in key.keys.items()))
    return "\n\n".join(parts)
