"""A record as a line: for people, for machines, or as a format of Python's logging says.

Whatever the form, a line is one line, cannot be mistaken for two, and holds no secret. Secrets are kept out where lines
are written; this is the second fence, for what libraries log of a request, and apps of theirs: tokens, cookies and
session ids are known by what stands before them or by their own form.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import time
from typing import Any

from aperture.log_scope import PROCESS, REQUEST, SESSION, short_id

__all__ = ["HumanLines", "JsonLines", "TemplateLines", "printable", "redacted"]

_CUT = "[cut]"

_NAMES = r"(?:proxy-)?authorization|(?:set-)?cookie|sec-websocket-protocol|bokeh-session-id|bokeh-token"
_SECRETS = re.compile(
    rf"""
    (?P<name>(?<![\w-])(?:{_NAMES})(?:["']|%22)?\s*[,:]\s*b?)              # a header, or an entry of a dict
    (?: (?P<quote>["']) (?:\\.|(?!(?P=quote))[^\\])* (?P=quote)? | [^\r\n]+ )
  | (?P<argument>bokeh-(?:session-id|token)(?:=|%3D)) [^&\s"';]*           # an argument of a query, or a cookie
  | \beyJ[\w-]{{20,}}(?:\.[\w-]+)*                                         # a token: JSON in base64, signature
  | \b(?P<id>[A-Za-z0-9]{{44}})(?:[.-][\w-]{{43}}|\b)                      # a session id, perhaps signed
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)

_QUERY = re.compile(r"\?[^\s'\"]+")
"""What Tornado's own lines quote of a request; ours show paths."""

_BOUND = 64 * 1024
"""Characters of one message or traceback; the rest says nothing that its beginning has not said."""

_TRACEBACK_BOUND = 16 * 1024
_TRACEBACK_LINE = 1000
"""Characters of a traceback, whose beginning and end say most, and of one of its lines, which may hold a value."""

_KNOWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
_LEVELS = {9: "TRACE", 10: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR", 50: "CRIT"}
_COLOURS = {"TRACE": 90, "DEBUG": 90, "INFO": 32, "WARN": 33, "ERROR": 31, "CRIT": 35}
_NAMES_OF_SCOPE = frozenset(("time", "level", "logger", "pid", "process", "node", "exception"))


def redacted(text: str) -> str:
    """The text without tokens, cookies and whole session ids."""
    scope = SESSION.get()
    if scope is not None and len(scope.session_id) > len(scope.short):
        text = text.replace(scope.session_id, scope.short)
    return _SECRETS.sub(_cut, text)


def printable(text: str) -> str:
    """The text with everything escaped that does not show: line ends, control characters, reversals of direction."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class TemplateLines(logging.Formatter):
    """Lines of a format that the user gives, as in Bokeh."""

    def format(self, record: logging.LogRecord) -> str:
        clean = copy.copy(record)
        clean.msg, clean.args = _folded(_message(record)), None
        exception = _exception(record)
        clean.exc_text = None if exception is None else _set_in(exception)
        clean.stack_info = None
        return super().format(clean)


class HumanLines(logging.Formatter):
    """Short lines for people: time, level, process, session with its app and request as far as known, message.

    Args:
        colours: whether the level is coloured.
    """

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        parts = [f"{moment}.{int(record.msecs):03d}", self._level(record.levelno)]
        if PROCESS.name:
            parts.append(f"{PROCESS.name:<10}")
        if whose := _whose():
            parts.append(f"[{whose}]")
        line = " ".join([*parts, _folded(_message(record))])
        exception = _exception(record)
        return line if exception is None else f"{line}\n{_set_in(exception)}"

    def _level(self, number: int) -> str:
        name = _LEVELS.get(number, str(number))
        return f"\x1b[{_COLOURS.get(name, 0)}m{name:<5}\x1b[0m" if self._colours else f"{name:<5}"


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII; what a record was given as `extra` is part of it."""

    def format(self, record: logging.LogRecord) -> str:
        whole = int(record.created)
        fields: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower() if record.levelno != 9 else "trace",
            "logger": record.name,
            "message": _message(record),
            "pid": record.process,
        }
        fields |= _scope()
        exception = _exception(record)
        if exception is not None:
            fields["exception"] = exception
        for name, value in vars(record).items():
            if name not in _KNOWN and name not in _NAMES_OF_SCOPE:
                fields.setdefault(name, _plain(value))
        return json.dumps(fields, default=_text)


def _whose() -> str:
    """Session, app and request of a line; a request is marked, for a line may have nothing else."""
    scope, request = SESSION.get(), REQUEST.get()
    known = [] if scope is None else [scope.short, scope.app]
    return printable(" ".join([*known, f"#{request}"] if request else known))


def _scope() -> dict[str, str]:
    scope = SESSION.get()
    known = {"process": PROCESS.name, "node": PROCESS.node, "request": REQUEST.get()}
    if scope is not None:
        known |= {"session": scope.short, "app": scope.app}
    return {name: value for name, value in known.items() if value}


def _message(record: logging.LogRecord) -> str:
    """The record's message, whatever is wrong with it: a line of the log is no place to fail."""
    try:
        text = record.getMessage()
    except Exception:
        text = f"{_text(record.msg)} (its arguments do not fit: {_text(record.args)})"
    text = text[:_BOUND]
    return redacted(_QUERY.sub("?" + _CUT, text) if record.name.startswith("tornado") else text)


def _exception(record: logging.LogRecord) -> str | None:
    parts = []
    try:
        if record.exc_info:
            parts.append(logging.Formatter().formatException(record.exc_info))
    except Exception:
        parts.append("an exception that cannot be shown")
    if record.stack_info:
        parts.append(record.stack_info)
    return redacted(_shortened("\n".join(parts))) if parts else None


def _shortened(traceback: str) -> str:
    whole = traceback if len(traceback) <= 2 * _BOUND else f"{traceback[:_BOUND]}\n{traceback[-_BOUND:]}"
    lines = (line if len(line) <= _TRACEBACK_LINE else line[:_TRACEBACK_LINE] + _CUT for line in whole.split("\n"))
    text = "\n".join(lines)
    half = _TRACEBACK_BOUND // 2
    return text if len(text) <= _TRACEBACK_BOUND else f"{text[:half]}\n{_CUT}\n{text[-half:]}"


def _folded(text: str) -> str:
    """Several lines as one and its continuation, which is set in, so that text from outside cannot forge a line."""
    if text.isprintable():
        return text
    return "\n    ".join(printable(line) for line in text.replace("\r\n", "\n").split("\n"))


def _set_in(traceback: str) -> str:
    """All of a traceback as a continuation: what an exception says may come of a viewer."""
    return "    " + _folded(traceback)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return redacted(_text(value)[:_BOUND])


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"


def _cut(found: re.Match[str]) -> str:
    if found["id"] is not None:
        return short_id(found["id"])
    return f"{found['name'] or found['argument'] or ''}{_CUT}"
