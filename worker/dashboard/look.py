"""Colours, and the style sheet of the HTML parts. Each part is in a shadow root of its own, so each includes it."""

from __future__ import annotations

__all__ = ["AXIS", "BAD", "CSS", "FAINT", "GOOD", "GRID", "LINES", "TEXT", "WARN"]

TEXT = "#e7ecf5"
AXIS = "#93a1bb"
FAINT = "#6b7a96"
GRID = "#212c42"
GOOD, WARN, BAD = "#34d399", "#fbbf24", "#f87171"
LINES = ("#60a5fa", "#34d399", "#f472b6", "#fbbf24", "#a78bfa", "#22d3ee", "#fb923c", "#f87171")
"""One for each line that a chart can have; neighbours differ in more than red and green."""

CSS = f"""
:host {{ display: block; width: 100%; color: {TEXT}; font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }}
.bk-clearfix {{ width: 100%; }}
b, h1, h2 {{ font-weight: 600; }}
.good {{ color: {GOOD}; }} .warn {{ color: {WARN}; }} .bad {{ color: {BAD}; }} .faint {{ color: {FAINT}; }}
.head {{ display: flex; flex-wrap: wrap; align-items: center; gap: .2rem .9rem; }}
.head h1 {{ margin: 0; font-size: 1.35rem; letter-spacing: -.01em; display: flex; align-items: center; gap: .55rem; }}
.head svg {{ width: 1.45rem; height: 1.45rem; }}
.head .sub {{ color: {AXIS}; font-size: .88rem; }}
.pill {{ margin-left: auto; padding: .2rem .75rem; border-radius: 999px; font-size: .85rem; font-weight: 600;
  background: color-mix(in srgb, currentColor 14%, transparent); white-space: nowrap; }}
.tiles {{ display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: .8rem; }}
.tile {{ background: #151d2e; border: 1px solid #212c42; border-radius: 12px; padding: .65rem .85rem .7rem; }}
.tile .what {{ color: {AXIS}; font-size: .8rem; }}
.tile .value {{ font-size: 1.65rem; font-weight: 600; line-height: 1.25; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; white-space: nowrap; }}
.tile .value small {{ font-size: .58em; font-weight: 500; color: {AXIS}; letter-spacing: 0; margin-left: .12em; }}
.tile .more {{ color: {FAINT}; font-size: .78rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }}
.title {{ display: flex; flex-wrap: wrap; align-items: baseline; gap: .1rem .7rem; min-height: 1.5rem; }}
.title h2 {{ margin: 0; font-size: .95rem; }}
.title .unit {{ color: {FAINT}; font-size: .8rem; }}
.keys {{ display: flex; flex-wrap: wrap; gap: 0 .8rem; margin-left: auto; font-size: .78rem; color: {AXIS}; }}
.keys i {{ display: inline-block; width: .6rem; height: .6rem; border-radius: 3px; margin-right: .32rem; }}
.keys span {{ white-space: nowrap; max-width: 11rem; overflow: hidden; text-overflow: ellipsis; }}
.list {{ overflow-x: auto; margin: .35rem -.2rem .3rem; }}
table {{ width: 100%; border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }}
th {{ font-weight: 500; color: {FAINT}; font-size: .76rem; text-align: right; padding: .25rem .4rem;
  white-space: nowrap; }}
td {{ text-align: right; padding: .36rem .4rem; border-top: 1px solid {GRID}; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; overflow: hidden; text-overflow: ellipsis; max-width: 15rem; }}
td.left, th.left {{ text-align: left; }}
tr.own td {{ color: {FAINT}; }}
tr.node td {{ color: {AXIS}; font-size: .78rem; padding-top: .6rem; border-top: 0; max-width: none; }}
.dot {{ display: inline-block; width: .55rem; height: .55rem; border-radius: 50%; background: currentColor;
  margin-right: .4rem; }}
@media (max-width: 1080px) {{ .tiles {{ grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }} }}
@media (max-width: 680px) {{
  .wide {{ display: none; }}
  .head .sub {{ order: 3; width: 100%; font-size: .82rem; }}
  .tiles {{ grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .6rem; }}
  .tile {{ padding: .55rem .7rem .6rem; }}
  .tile .value {{ font-size: 1.4rem; }}
  .keys {{ margin-left: 0; }}
  th:first-child, td:first-child {{ max-width: 7.5rem; }}
}}
"""
