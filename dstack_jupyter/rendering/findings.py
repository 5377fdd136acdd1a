"""What `doctor` found, as text and HTML: what is well, what is not, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from dstack_engine.records.findings import Finding
from dstack_jupyter.rendering.markup import GREEN, RED, escape, plain, section, tag
from dstack_jupyter.rendering.quantities import counted


def findings_text(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, with the remedy below where one is known."""
    lines = []
    for finding in findings:
        mark = "ok     " if finding.ok else "problem"
        lines.append(f"{mark}  {plain(finding.subject)}: {plain(finding.text)}")
        if finding.fix and not finding.ok:
            lines.append(f"         fix: {plain(finding.fix)}")
    return "\n".join([*lines, _summary(findings)])


def findings_html(findings: Sequence[Finding]) -> str:
    """Return a list of the findings; words and signs tell what colours do."""
    items = "".join(_item(finding) for finding in findings)
    body = tag("ul", items, "list-style:none;margin:0;padding:0")
    return section(body + tag("div", escape(_summary(findings)), "font-weight:600;padding-top:4px"))


def _item(finding: Finding) -> str:
    mark, colour = ("✓ ok", GREEN) if finding.ok else ("✕ problem", RED)
    text = tag("span", mark, f"display:inline-block;min-width:6.5em;color:{colour};font-weight:600")
    text += tag("b", escape(finding.subject)) + ": " + escape(finding.text)
    if finding.fix and not finding.ok:
        text += tag("div", "fix: " + tag("code", escape(finding.fix)), "padding-left:6.5em")
    return tag("li", text, "padding:2px 0")


def _summary(findings: Sequence[Finding]) -> str:
    problems = sum(not finding.ok for finding in findings)
    return f"{counted(problems, 'problem')} found." if problems else "All is well."
