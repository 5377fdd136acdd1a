"""A job's output as text and as HTML with its colours. Called for frozen cards and terminals."""

from __future__ import annotations

from dstack_jupyter.rendering.markup import CODE_FONT, escape, muted, tag
from dstack_jupyter.rendering.quantities import counted
from dstack_jupyter.terminal import Colour, Line, LogScreen, Style

#: The sixteen colours of terminals, of a lightness that can be read on white and on black.
PALETTE = (
    "#7a7a7a", "#d1453b", "#2a8a4a", "#a07a14", "#3f7fd8", "#b04fc0", "#178a96", "#8a8a8a",
    "#808080", "#e0564c", "#31994f", "#b0861c", "#4f8ce4", "#c05fd0", "#1f99a6", "#949494",
)  # fmt: skip
_CUBE = (0, 95, 135, 175, 215, 255)


def log_text(screen: LogScreen, last: int | None = None) -> str:
    """Return the screen's lines, or the *last* so many, with a mark where earlier ones are not."""
    earlier = _earlier(screen, last)
    text = screen.text(last)
    return f"{earlier}\n{text}" if earlier else text


def log_html(screen: LogScreen, last: int | None = None) -> str:
    """Return the same with colours; nothing where nothing was printed."""
    lines = screen.lines(last)
    if not lines:
        return ""
    earlier = _earlier(screen, last)
    mark = tag("i", muted(earlier)) + "\n" if earlier else ""
    style = (
        f"font-family:{CODE_FONT};font-size:12px;line-height:1.45;margin:6px 0 0;padding:8px 10px;"
        "border:0;border-radius:4px;background:rgba(128,128,128,.1);max-height:26em;overflow:auto;"
        "white-space:pre-wrap;overflow-wrap:anywhere"
    )
    body = mark + "\n".join(_line_html(line) for line in lines)
    return tag("pre", body, style, tabindex="0")


def colour_code(colour: Colour) -> str:
    """Return the ``#rrggbb`` of a colour: of the palette's 256, the first sixteen are ours."""
    if isinstance(colour, str):
        return colour
    if colour < 16:
        return PALETTE[colour]
    if colour >= 232:
        return "#" + f"{8 + (colour - 232) * 10:02x}" * 3
    at = colour - 16
    return "#" + "".join(f"{_CUBE[part]:02x}" for part in (at // 36, at // 6 % 6, at % 6))


def style_css(style: Style) -> str:
    """Return the inline CSS of a style."""
    front = None if style.foreground is None else colour_code(style.foreground)
    back = None if style.background is None else colour_code(style.background)
    if style.inverse:
        front, back = back or "#ffffff", front or PALETTE[0]
    lines = ["underline"] * style.underline + ["line-through"] * style.strike
    css = [f"color:{front}"] if front else []
    css += [f"background-color:{back}"] if back else []
    css += ["font-weight:bold"] if style.bold else []
    css += ["opacity:.7"] if style.dim else []
    css += ["font-style:italic"] if style.italic else []
    css += [f"text-decoration:{' '.join(lines)}"] if lines else []
    return ";".join(css)


def _line_html(line: Line) -> str:
    parts = []
    for span in line.spans:
        css = style_css(span.style)
        parts.append(tag("span", escape(span.text), css) if css else escape(span.text))
    return "".join(parts)


def _earlier(screen: LogScreen, last: int | None) -> str:
    kept = len(screen.lines())
    count = screen.dropped + (max(kept - last, 0) if last is not None else 0)
    if not count:
        return ""
    return f"… {counted(count, 'earlier line')} {'is' if count == 1 else 'are'} not shown here"
