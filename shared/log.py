"""One place sets up logging, once per node and before the fork, so that every process writes alike.

The lines go where the root logger sends them; `aperture` and `bokeh` are the two loggers whose level the user sets.
What a line looks like is in `aperture.log_lines`, what it says of process, session and request in `aperture.log_scope`,
and how it gets written without ever blocking a caller in `aperture.log_sink`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from aperture.log_lines import HumanLines, JsonLines, TemplateLines
from aperture.log_scope import short_id
from aperture.log_sink import FileSink, FloodGate, LineHandler, StreamSink

__all__ = ["AUTO", "HUMAN", "JSON", "TRACE", "configure", "level_number", "lines_for", "short_id"]

TRACE = 9
"""Below debug; Bokeh defines the same number and name."""

LOGGERS = ("aperture", "bokeh")

AUTO, HUMAN, JSON = "auto", "human", "json"
"""What `--log-format` takes beside a format of Python's logging."""

_STANDARD_ERROR = 2


def level_number(name: str) -> int:
    """The number of a level by its lower-case name, `trace` included.

    Raises:
        KeyError: there is no such level.
    """
    return TRACE if name == "trace" else logging.getLevelNamesMapping()[name.upper()]


def configure(level: str, template: str = AUTO, file: str | None = None) -> None:
    """Log from `level` on, one line per record. Runs in the supervisor, before the fork.

    Args:
        level: trace, debug, info, warning, error or critical.
        template: `human`, `json`, `auto`, or the line's format, as `logging.Formatter` takes it.
        file: appended to by all processes of the node, and opened again when it was moved away; None writes to
            standard error.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format is not one.
    """
    # Bokeh puts a handler on its own logger when it is imported, and a level if its environment names one, so its
    # import comes first and its basicConfig removes that handler again: no line appears twice.
    from bokeh.util.logconfig import basicConfig

    terminal = file is None and os.isatty(_STANDARD_ERROR)
    lines = lines_for(template, terminal=terminal, environment=os.environ)
    handler = LineHandler(StreamSink(_STANDARD_ERROR) if file is None else FileSink(file))
    handler.setFormatter(lines)
    handler.addFilter(FloodGate())
    basicConfig(handlers=[handler])
    for name in LOGGERS:
        logging.getLogger(name).setLevel(level_number(level))


def lines_for(template: str, *, terminal: bool, environment: Mapping[str, str]) -> logging.Formatter:
    """What makes the lines.

    Args:
        template: as `configure` takes it.
        terminal: whether the output is a terminal.
        environment: `NO_COLOR` and a `TERM` of `dumb` are obeyed.

    Raises:
        ValueError: the format is not one.
    """
    if template == AUTO:
        template = HUMAN if terminal else JSON
    if template == JSON:
        return JsonLines()
    if template == HUMAN:
        plain = bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
        return HumanLines(colours=terminal and not plain)
    return TemplateLines(template)
