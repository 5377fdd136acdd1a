"""What axe-core, the accessibility checker, finds in a part of a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

AXE = Path(__file__).parents[2] / "labextension/node_modules/axe-core/axe.min.js"
SERIOUS = ("serious", "critical")

#: Our elements alone: Lab's own are not ours to mend. Iframes are not entered.
_LOOK = """part => axe.run(
  {include: [part]},
  {iframes: false, resultTypes: ["violations"], runOnly: ["wcag2a", "wcag2aa", "wcag21a",
   "wcag21aa", "wcag22aa", "best-practice"], rules: {region: {enabled: false}}}
)"""


def serious_findings(page: Page, part: str) -> list[str]:
    """Return what is seriously wrong within the first element that the selector *part* finds."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: npm ci --prefix labextension")
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    found = page.evaluate(_LOOK, part)
    return [_sentence(one) for one in found["violations"] if one["impact"] in SERIOUS]


def _sentence(violation: dict[str, Any]) -> str:
    places = "\n".join(
        f"  {node['html']}\n    {node['failureSummary']}" for node in violation["nodes"]
    )
    return f"{violation['impact']} {violation['id']}: {violation['help']}\n{places}"
