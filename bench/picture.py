"""The results as a picture: how many times better than stock each row is, on a logarithmic scale. Plain SVG."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from provenance import caption

__all__ = ["draw"]

WIDTH = 1080
LEFT, RIGHT = 372, 120
TOP, BOTTOM = 104, 64
ROW, BAR = 27, 15
GAP = 34
"""Between two chapters, for the heading of the second."""

INK, SOFT, FAINT = "#1d2433", "#667085", "#e4e7ec"
BETTER, WORSE, MISSED = "#1f7a8c", "#b0b7c3", "#d98e04"

CHAPTERS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("Encoding and applying a change", ("encode-", "change-", "apply-", "pull-")),
    ("Patches delivered to viewers", ("deliver-",)),
    ("Round trips", ("trip-", "trips")),
    ("Pages and sessions", ("first-", "sessions", "memory-", "stall")),
)

Row = dict[str, Any]


def draw(path: Path) -> str:
    """The picture of a results file; rows without a peer, or that belong to other rows, are left out."""
    recorded = json.loads(path.read_text())
    chapters = [(title, _of_chapter(recorded["rows"], names)) for title, names in CHAPTERS]
    chapters = [(title, rows) for title, rows in chapters if rows]
    height = TOP + BOTTOM + sum(GAP + ROW * len(rows) for _, rows in chapters)
    scale = _Scale(max(row["ratio"] for _, rows in chapters for row in rows))
    shown = [row for _, rows in chapters for row in rows]
    parts = [*_frame(height, shown), *_grid(scale, height)]
    y = TOP
    for title, rows in chapters:
        parts.append(_text(24, y + 20, title, weight=600))
        y += GAP
        for row in rows:
            parts.extend(_bar(row, y, scale))
            y += ROW
    return "\n".join([*parts, "</svg>", ""])


def _of_chapter(rows: Sequence[Row], names: tuple[str, ...]) -> list[Row]:
    return [row for row in rows if row["ratio"] is not None and row["name"].startswith(names)]


class _Scale:
    """From a ratio to a place on the line."""

    def __init__(self, most: float) -> None:
        self.decades = max(1, math.ceil(math.log10(most)))
        self._low = -0.35
        self._unit = (WIDTH - LEFT - RIGHT) / (self.decades - self._low)

    def __call__(self, ratio: float) -> float:
        return LEFT + (max(self._low, math.log10(ratio)) - self._low) * self._unit


def _frame(height: int, shown: Sequence[Row]) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="Inter, Helvetica, Arial, sans-serif">'
    )
    yield f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    yield _text(24, 42, "How many times better than stock bokeh serve", size=21, weight=700)
    # What most rows have in common; there is no room for the names of others, which docs/benchmarks.md has.
    about = caption(shown).partition(" Measured ")[0]
    yield _text(24, 64, f"Aperture beside Bokeh, by turns. {about}", size=12.5, fill=SOFT)
    y = height - 22
    yield f'<rect x="24" y="{y - 10}" width="18" height="11" rx="2" fill="{BETTER}"/>'
    yield _text(48, y, "ratio, with stock and ours beside it", size=12, fill=SOFT)
    yield _mark(274, y - 12, INK) + _text(284, y, "asked for", size=12, fill=SOFT)
    yield f'<rect x="360" y="{y - 10}" width="18" height="11" rx="2" fill="{MISSED}"/>'
    yield _text(384, y, "less than asked for", size=12, fill=SOFT)


def _grid(scale: _Scale, height: int) -> Iterator[str]:
    for decade in range(scale.decades + 1):
        x = scale(10**decade)
        stroke = FAINT if decade else SOFT
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM + 8}" stroke="{stroke}"/>'
        label = "as fast" if not decade else f"{10**decade:,}x"
        yield _text(x, TOP - 10, label, size=12, fill=SOFT, anchor="middle")


def _bar(row: Row, y: float, scale: _Scale) -> Iterator[str]:
    one, end = scale(1), scale(row["ratio"])
    colour = MISSED if row["missed"] else BETTER if row["ratio"] >= 1 else WORSE
    yield _text(LEFT - 14, y + 12, row["title"], size=12.5, anchor="end")
    left, width = min(one, end), max(1.5, abs(end - one))
    yield f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>'
    wanted = row["target"]["faster"]
    if wanted:
        yield _mark(scale(wanted), y - 2, INK)
    beside = max(one, end, scale(wanted) if wanted else 0) + 8
    ratio = row["ratio"]
    label = f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x"
    values = f"{_short(row['stock']['median'], row['unit'])} → {_short(row['ours']['median'], row['unit'])}"
    yield (
        f'<text x="{beside:.1f}" y="{y + 12}" font-size="12.5" fill="{INK}"><tspan font-weight="600">{label}</tspan>'
        f'<tspan dx="7" font-size="11" fill="{SOFT}">{escape(values)}</tspan></text>'
    )


def _short(value: float, unit: str) -> str:
    for larger, factor in (("us", "ms"), ("ms", "s")):
        if unit == larger and value >= 1000:
            value, unit = value / 1000, factor
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}{unit if unit.startswith('/') else ' ' + unit}"


def _mark(x: float, y: float, fill: str) -> str:
    return f'<rect x="{x - 1.2:.1f}" y="{y}" width="2.4" height="{BAR + 4}" fill="{fill}"/>'


def _text(
    x: float, y: float, text: str, *, size: float = 13.5, weight: int = 400, fill: str = INK, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
