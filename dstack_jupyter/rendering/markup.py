"""The pieces of which every view is made: plain tables, and HTML that is safe and stands alone.

Styles are inline and read the page's own variables, so that an output looks right in light and dark
pages, in exports, and where a page strips style sheets. Called by the other modules of `rendering`.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MUTED = "var(--jp-ui-font-color2,var(--vscode-descriptionForeground,#767676))"
BORDER = "var(--jp-border-color2,var(--vscode-panel-border,rgba(128,128,128,.35)))"
FONT = "var(--jp-ui-font-family,var(--vscode-font-family,system-ui,sans-serif))"
CODE_FONT = "var(--jp-code-font-family,var(--vscode-editor-font-family,ui-monospace,monospace))"
#: Readable on white and on black.
GREEN, RED, AMBER, BLUE = "#2a8a4a", "#d1453b", "#b0761b", "#2f7fd0"

_CELL = "padding:3px 10px;text-align:left;vertical-align:top;border:0;"


def plain(text: str) -> str:
    """Return *text* without control characters, which a terminal would act on."""
    return "".join(
        character if character == "\n" or unicodedata.category(character) != "Cc" else " "
        for character in text
    )


def escape(text: object) -> str:
    """Return *text* for use in HTML, in attributes too."""
    return html.escape(str(text), quote=True)


def tag(name: str, content: str, style: str = "", **attributes: str) -> str:
    """Return an element around *content*, which is HTML; attributes are escaped."""
    given = {"style": style, **attributes} if style else attributes
    written = "".join(f' {key}="{escape(value)}"' for key, value in given.items())
    return f"<{name}{written}>{content}</{name}>"


def muted(text: str) -> str:
    """Return *text* in the page's second colour."""
    return tag("span", escape(text), f"color:{MUTED}")


def link(url: str) -> str:
    """Return a link to *url*, or its bare text where it is no web address."""
    if not url.startswith(("http://", "https://")):
        return escape(url)
    return tag("a", escape(url), href=url, target="_blank", rel="noopener noreferrer")


def prose(text: str) -> str:
    """Return *text* as it is, in the page's own letters: nothing in it is markup."""
    return section(tag("div", escape(text), "white-space:pre-wrap;overflow-wrap:anywhere"))


def section(content: str) -> str:
    """Return the frame that a whole view stands in."""
    return tag("div", content, f"font-family:{FONT};font-size:13px;line-height:1.5;max-width:76em")


@dataclass(frozen=True)
class Table:
    """Headings and rows of plain text; a column of numbers is set to the right."""

    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[str] = frozenset()

    def text(self) -> str:
        """Return aligned columns, without colours."""
        rows = [tuple(plain(cell).replace("\n", " ") for cell in row) for row in self.rows]
        table = [tuple(heading.upper() for heading in self.headings), *rows]
        widths = [max(columns(row[at]) for row in table) for at in range(len(self.headings))]
        return "\n".join(self._line(row, widths) for row in table)

    def html(self, caption: str) -> str:
        """Return a native table with *caption*."""
        head = "".join(
            tag("th", escape(heading), self._style(heading) + "font-weight:600", scope="col")
            for heading in self.headings
        )
        title = tag("caption", escape(caption), "text-align:left;font-weight:600;padding:4px 0")
        rule = f"border-bottom:1px solid {BORDER}"
        rows = tag("thead", tag("tr", head, rule))
        rows += tag("tbody", "".join(tag("tr", self._cells(row)) for row in self.rows))
        return tag("table", title + rows, "border-collapse:collapse;margin:4px 0")

    def _cells(self, row: Sequence[str]) -> str:
        pairs = zip(self.headings, row, strict=True)
        return "".join(tag("td", escape(cell), self._style(heading)) for heading, cell in pairs)

    def _style(self, heading: str) -> str:
        side = "right" if heading in self.numeric else "left"
        return _CELL.replace("text-align:left", f"text-align:{side}")

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        cells = []
        for heading, cell, width in zip(self.headings, row, widths, strict=True):
            space = " " * (width - columns(cell))
            cells.append(space + cell if heading in self.numeric else cell + space)
        return "  ".join(cells).rstrip()


def columns(text: str) -> int:
    """Return how many columns of a terminal *text* takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def bullets(lines: Iterable[str]) -> str:
    """Return an HTML list of plain lines."""
    items = "".join(tag("li", escape(line)) for line in lines)
    return tag("ul", items, "margin:2px 0 6px;padding-left:20px") if items else ""
