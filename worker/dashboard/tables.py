"""The text parts of the page: header, tiles, tables, keys of charts. No I/O; names of apps are escaped."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from html import escape

from aperture.worker.dashboard.look import LINES
from aperture.worker.dashboard.rows import AppRow, Totals, WorkerRow

__all__ = ["apps_table", "duration", "header", "keys", "memory", "tiles", "title", "waiting", "workers_table"]

_NONE = "\N{EN DASH}"
_LISTED = 40
"""Rows shown. Of more workers those with problems come first."""

_SLOW_LAG, _STUCK_LAG = 0.1, 1.0
"""Seconds of event loop lag from which it is shown in another colour: users notice the first, and complain about the
second."""

_LOGO = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="#60a5fa" stroke-width="2" stroke-linejoin="round" aria-hidden="true">'
    '<circle cx="12" cy="12" r="10"/><path d="M14.3 8 20 17.9M9.7 8h11.5M7.4 12 13.1 2.1M9.7 16 4 6.1M14.3 16H2.8'
    'M16.6 12l-5.7 9.9"/></svg>'
)


def duration(seconds: float) -> tuple[str, str]:
    """Number and unit."""
    if math.isnan(seconds):
        return _NONE, ""
    if seconds < 0.00095:
        return f"{seconds * 1e6:.0f}", "µs"
    if seconds < 0.95:
        return (f"{seconds * 1e3:.1f}" if seconds < 0.0095 else f"{seconds * 1e3:.0f}"), "ms"
    return f"{seconds:.1f}", "s"


def memory(size: float) -> tuple[str, str]:
    """Number and unit."""
    return (f"{size / 1e9:.2f}", "GB") if size >= 0.95e9 else (f"{size / 1e6:.0f}", "MB")


def header(totals: Totals, now: float) -> str:
    """Name, size and health of the cluster."""
    parts = [_counted(totals.nodes, "node"), _counted(totals.workers, "worker")]
    parts += [] if totals.bus is None else ["Redis connected" if totals.bus else "Redis down"]
    parts.append(time.strftime("%H:%M:%S UTC", time.gmtime(now)))
    kind, word = _health(totals)
    return (
        f'<div class="head"><h1>{_LOGO}Aperture</h1><span class="sub">{" · ".join(parts)}</span>'
        f'<span class="pill {kind}">{word}</span></div>'
    )


def waiting() -> str:
    """The header before the first sample."""
    return f'<div class="head"><h1>{_LOGO}Aperture</h1><span class="sub">looking …</span></div>'


def tiles(totals: Totals) -> str:
    """The ten numbers that an operator needs first."""
    made = [
        _tile("Sessions", _count(totals.sessions), "", _counted(totals.workers, "worker"), of="sessions"),
        _tile("Connections", _count(totals.connections), "", _whose(totals), of="connections"),
        _tile("Patches out", _rate(totals.rate_out), "/s", f"{_rate(totals.rate_in)}/s in"),
        _tile("Callback p95", *duration(totals.callback_p95), f"median {_joined(duration(totals.callback_p50))}"),
        _tile("New session p95", *duration(totals.create_p95), f"encode {_joined(duration(totals.encode_p95))}"),
        _tile("Loop lag, worst", *duration(totals.lag), "longest of 15 s", kind=_lag_kind(totals.lag)),
        _tile("Relay lag p95", *duration(totals.relay_p95), f"{_rate(totals.relay_rate)} messages/s"),
        _tile("Restores", _count(totals.restores), "", _restores(totals), kind="warn" if totals.restores_fresh else ""),
        _tile("Restarts", _count(totals.restarts), "", "of workers", of="restarts"),
        _tile("Memory", *memory(totals.memory), "all processes"),
    ]
    return f'<div class="tiles">{"".join(made)}</div>'


def title(text: str, unit: str, labels: Sequence[str]) -> str:
    """A chart's title, with the colours of its lines."""
    return (
        f'<div class="title"><h2>{escape(text)}</h2><span class="unit">{escape(unit)}</span>'
        f'<span class="keys">{keys(labels)}</span></div>'
    )


def keys(labels: Sequence[str]) -> str:
    """The key of each line: its colour and its label."""
    return "".join(
        f'<span title="{escape(label)}"><i style="background:{LINES[slot % len(LINES)]}"></i>{escape(label)}</span>'
        for slot, label in enumerate(labels)
    )


def apps_table(rows: Sequence[AppRow]) -> str:
    """One row for each app, the dashboard last. `data-of` names a cell, for programs that read the page."""
    columns = (
        _head("App")
        + _head("Sessions")
        + _head("Conn.")
        + _head("Out/s")
        + _head("In/s", wide=True)
        + _head("Callback p95", wide=True)
        + _head("New p95", wide=True)
        + _head("Restores", wide=True)
        + _head("Out, total", wide=True)
        + _head("In, total", wide=True)
    )
    ordered = sorted(rows, key=lambda row: (row.own, -row.rate_out, row.app))
    body = "".join(map(_app, ordered[:_LISTED]))
    return f'{_list_title("Apps", len(ordered))}<div class="list"><table><tr>{columns}</tr>{body}</table></div>'


def workers_table(rows: Sequence[WorkerRow]) -> str:
    """One row for each worker, by node."""
    columns = (
        _head("Worker")
        + _head("State", left=True)
        + _head("Sessions")
        + _head("Conn.", wide=True)
        + _head("Out/s", wide=True)
        + _head("Lag")
        + _head("Memory")
        + _head("Up for", wide=True)
    )
    shown = list(rows)
    if len(shown) > _LISTED:
        shown = sorted(shown, key=lambda row: (row.state == "up", -row.lag))[:_LISTED]
        shown.sort(key=lambda row: (row.node, row.worker))
    body, node = [], None
    for row in shown:
        if row.node != node:
            node = row.node
            body.append(f'<tr class="node"><td colspan="8">{escape(node)}</td></tr>')
        body.append(_worker(row))
    return (
        f'{_list_title("Workers", len(rows))}<div class="list"><table><tr>{columns}</tr>{"".join(body)}</table></div>'
    )


def _app(row: AppRow) -> str:
    cells = (
        _cell(_count(row.sessions), "sessions"),
        _cell(_count(row.connections), "connections"),
        _cell(_rate(row.rate_out)),
        _cell(_rate(row.rate_in), wide=True),
        _cell(_joined(duration(row.callback_p95)), wide=True),
        _cell(_joined(duration(row.create_p95)), wide=True),
        _cell(_count(row.restores), "restores", wide=True),
        _cell(_count(row.patches_out), "patches_out", wide=True),
        _cell(_count(row.patches_in), "patches_in", wide=True),
    )
    name = escape(row.app)
    shown = f"{name} (this page)" if row.own else name
    return (
        f'<tr data-app="{name}"{" class=own" if row.own else ""}><td title="{name}">{shown}</td>{"".join(cells)}</tr>'
    )


_STATES = {"up": ("good", "up"), "new": ("warn", "restarted"), "silent": ("bad", "silent"), "down": ("bad", "down")}


def _worker(row: WorkerRow) -> str:
    kind, word = _STATES[row.state]
    known = row.state != "down"
    cells = (
        _cell(_count(row.sessions), "sessions"),
        _cell(_count(row.connections), "connections", wide=True),
        _cell(_rate(row.rate_out), wide=True),
        _cell(_joined(duration(row.lag)) if known else _NONE, kind=_lag_kind(row.lag)),
        _cell(_joined(memory(row.memory)) if known else _NONE),
        _cell(_span(row.up_for) if known else _NONE, wide=True),
    )
    state = f'<td class="left {kind}" data-of="state"><span class="dot"></span>{word}</td>'
    where = f'data-node="{escape(row.node)}" data-worker="{row.worker}"'
    return f"<tr {where}><td>worker {row.worker}</td>{state}{''.join(cells)}</tr>"


def _tile(what: str, value: str, unit: str, more: str, *, kind: str = "", of: str = "") -> str:
    tail = f"<small>{unit}</small>" if unit else ""
    marked = f' data-of="{of}"' if of else ""
    return (
        f'<div class="tile"><div class="what">{what}</div><div class="value {kind}"{marked}>{value}{tail}</div>'
        f'<div class="more">{more}</div></div>'
    )


def _head(text: str, *, wide: bool = False, left: bool = False) -> str:
    return f'<th class="{_classes("wide" if wide else "", "left" if left else "")}">{text}</th>'


def _cell(text: str, of: str = "", *, wide: bool = False, kind: str = "") -> str:
    marked = f' data-of="{of}"' if of else ""
    return f'<td class="{_classes("wide" if wide else "", kind)}"{marked}>{text}</td>'


def _classes(*names: str) -> str:
    return " ".join(filter(None, names))


def _list_title(text: str, count: int) -> str:
    more = f"{_LISTED} of {count}" if count > _LISTED else str(count)
    return f'<div class="title"><h2>{text}</h2><span class="unit">{more}</span></div>'


def _health(totals: Totals) -> tuple[str, str]:
    if totals.silent_nodes:
        return "bad", f"{_counted(totals.silent_nodes, 'node')} silent"
    if totals.silent_workers:
        return "bad", f"{_counted(totals.silent_workers, 'worker')} missing"
    if totals.bus is False:
        return "bad", "Redis is down"
    if _lag_kind(totals.lag):
        return "warn", "event loops lag"
    return "good", "all well"


def _restores(totals: Totals) -> str:
    return f"{_count(totals.restores_fresh)} came back empty" if totals.restores_fresh else "with their state"


def _whose(totals: Totals) -> str:
    """Of connections: the slow ones if there are any."""
    return f"{_count(totals.behind)} behind" if totals.behind else _per_session(totals)


def _per_session(totals: Totals) -> str:
    return f"{totals.connections / totals.sessions:.1f} a session" if totals.sessions else "no session"


def _lag_kind(seconds: float) -> str:
    return "bad" if seconds >= _STUCK_LAG else "warn" if seconds >= _SLOW_LAG else ""


def _joined(parts: Iterable[str]) -> str:
    return " ".join(filter(None, parts))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _rate(per_second: float) -> str:
    return f"{per_second:,.1f}" if 0 < per_second < 10 else f"{per_second:,.0f}"


def _span(seconds: float) -> str:
    if math.isnan(seconds):
        return _NONE
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
