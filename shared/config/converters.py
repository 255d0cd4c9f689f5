"""From the checked value of an option to the value of its field in `Settings`: units, absolute paths, "none".

What an option's kind says (a number, a list, yes or no) is checked in `sources.py` before; what depends on several
options is in `plan.py`. Each converter takes the option's flag, for its complaint, and the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

from aperture.errors import ConfigurationError
from aperture.paths import checked_route, quoted

__all__ = [
    "BIGGEST_PORT",
    "LOG_LEVELS",
    "Converter",
    "admin_port",
    "as_it_is",
    "existing_file",
    "icon",
    "if_given",
    "is_given",
    "log_level",
    "names",
    "negated",
    "prefix",
    "seconds",
    "waits",
]

Converter: TypeAlias = Callable[[str, Any], Any]
"""Takes the option's flag and its value; raises ConfigurationError."""

LOG_LEVELS = ("trace", "debug", "info", "warning", "error", "critical")
BIGGEST_PORT = 65_535
_MILLISECONDS = 1000.0


def as_it_is(_flag: str, value: Any) -> Any:
    return value


def if_given(_flag: str, value: str | None) -> str | None:
    """None for an empty text, too: a value that comes from a Secret may be empty."""
    return value or None


def is_given(_flag: str, value: object) -> bool:
    return value is not None


def negated(_flag: str, value: bool) -> bool:
    return not value


def seconds(_flag: str, value: float) -> float:
    return value / _MILLISECONDS


def names(_flag: str, value: Sequence[str] | None) -> tuple[str, ...] | None:
    return tuple(value) if value else None


def waits(_flag: str, value: str) -> bool:
    return value == "wait"


def log_level(_flag: str, value: str) -> str:
    level = value.lower()
    # `--log-level None` is Bokeh's way to say that nothing was said.
    return level if level in LOG_LEVELS else "info"


def prefix(_flag: str, value: str | None) -> str:
    """As it stands in URLs; it may be given like that, or plain."""
    bare = quoted(checked_route(unquote(value or "").strip("/")))
    return f"/{bare}" if bare else ""


def admin_port(flag: str, value: str) -> int | None:
    if value.lower() == "none":
        return None
    if not value.isdecimal() or int(value) > BIGGEST_PORT:
        raise ConfigurationError(f"{flag}={value}: neither a port nor 'none'")
    return int(value)


def existing_file(flag: str, value: str | None) -> str | None:
    """The absolute path, so that a worker may change its directory."""
    if value is None:
        return None
    found = Path(value).expanduser()
    if not found.is_file():
        raise ConfigurationError(f"{flag}: there is no file {value}")
    return str(found.absolute())


def icon(flag: str, value: str) -> str | None:
    from bokeh.settings import convert_ico_path

    try:
        path = convert_ico_path(value)
    except ValueError:
        raise ConfigurationError(f"{flag}={value}: neither an .ico file nor 'none'") from None
    return None if path == "none" else existing_file(flag, path)
