"""JSON with lone surrogates in it: half a pair, which is text to Python and to a browser, and nothing that UTF-8 has.

They come from `os.fsdecode`, of a file name that is not UTF-8, and from text that was cut in the middle of an emoji.
JSON can say them, as escapes; orjson neither writes nor reads them, and is ten times faster. So orjson is tried first,
and then the standard library, by whatever writes and by whatever reads it.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import orjson

__all__ = ["presentable", "read_json", "write_json"]


def write_json(value: Any) -> bytes:
    """A value of JSON's own types as JSON text; lone surrogates are escaped.

    Raises:
        TypeError: it is of other types.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text, also of one that escapes lone surrogates.

    Raises:
        ValueError: it is not JSON, or nested too deeply to be read.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        if not _escapes_surrogates(text):
            raise
    # As text: of bytes, the standard library would guess the encoding.
    decoded = text if isinstance(text, str) else text.decode()
    try:
        return json.loads(decoded, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def presentable(text: str) -> str:
    """The text as it can be shown and sent: with U+FFFD, as browsers show it, for what UTF-8 does not have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # Two halves of one pair are joined on the way.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _escapes_surrogates(text: str | bytes) -> bool:
    if isinstance(text, str):
        return "\\ud" in text or "\\uD" in text
    return b"\\ud" in text or b"\\uD" in text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
