"""Values that an app keeps with a session, for its code to find again when it runs elsewhere.

What an app holds in its own variables is gone with the process that ran it; models and their properties are not always
the place for a history, a cursor or an intermediate result. `session_state` gives each document a mapping for that. A
server that keeps sessions writes each assignment down together with the changes made to the document under the same
lock, and the values are there before the app's code runs again in another worker. Elsewhere (stock `bokeh serve`, a
test, a notebook) the same mapping is just a dictionary that lives as long as its document.

Values are held in the form in which they are written down. So an assignment is checked at once, and what is read is a
copy: a list that is changed in place must be assigned again, and forgetting that shows on the first try instead of
after the first crash. This module knows no server; the server of the document listens to its mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import msgpack
import numpy as np
from bokeh.document import Document

__all__ = ["SessionState", "pack_value", "session_state", "unpack_value"]

DEPTH_LIMIT = 100
"""Of lists and maps in one another: a list that holds itself must end in an error; msgpack itself ends at 512."""

_ARRAY = 1
_ARRAY_KINDS = "biufcSUmM"
"""Kinds of numpy arrays whose bytes are all there is to them; objects and records are not."""

_ATTRIBUTE = "_aperture_session_state"

Listener = Callable[[str, "bytes | None"], None]
"""Called before each change: the key and its packed value, or None for a deleted one. May raise to refuse."""


def session_state(doc: Document | None = None) -> SessionState:
    """The values that the app keeps with this document's session.

    Args:
        doc: the session's document; by default the current one.

    Returns:
        A mapping from text to None, bool, int (of 64 bits), float, str, bytes, numpy arrays, and lists and maps of
        these. What is read from it is a copy: assign what you have changed.
    """
    if doc is None:
        from bokeh.io import curdoc

        doc = curdoc()
    # Callbacks without the lock see their document through a proxy.
    document = getattr(doc, "_doc", doc)
    state: SessionState | None = getattr(document, _ATTRIBUTE, None)
    if state is None:
        state = SessionState()
        setattr(document, _ATTRIBUTE, state)
    return state


class SessionState(MutableMapping[str, Any]):
    """See `session_state`, which makes them. Changes need the document's lock, as changes of the document do.

    Raises:
        TypeError: on assignment of a value, or under a key, that cannot be kept; the text names its type.
        ValueError: on assignment of too large an integer, or of lists nested too deeply.
        aperture.errors.NotLocked: on a change without the lock, where Aperture serves the document.
    """

    __slots__ = ("_packed", "listener")

    def __init__(self) -> None:
        self._packed: dict[str, bytes] = {}
        self.listener: Listener | None = None

    def __getitem__(self, key: str) -> Any:
        return unpack_value(self._packed[key])

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"session state is kept under text, not under {_type_name(key)}")
        key, packed = _plain_text(key), pack_value(value)
        if self.listener is not None:
            self.listener(key, packed)
        self._packed[key] = packed

    def __delitem__(self, key: str) -> None:
        if key not in self._packed:
            raise KeyError(key)
        if self.listener is not None:
            self.listener(key, None)
        del self._packed[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __contains__(self, key: object) -> bool:
        return key in self._packed

    def __len__(self) -> int:
        return len(self._packed)

    def __repr__(self) -> str:
        return f"<SessionState of {', '.join(self._packed) or 'nothing'}>"

    def packed(self) -> dict[str, bytes]:
        """All values, packed as the journal stores them. For the server of the document."""
        return dict(self._packed)

    def lay(self, packed: Mapping[str, bytes]) -> None:
        """Replace all values without notifying the listener. For the server of the document."""
        self._packed = dict(packed)


def pack_value(value: Any) -> bytes:
    """A value as bytes.

    Raises:
        TypeError: it is none that can be kept; the text names its type.
        ValueError: an integer is too large, or lists are nested too deeply.
    """
    try:
        packed: bytes = msgpack.packb(_plain(value, 0), unicode_errors="surrogatepass")
    except OverflowError:
        raise ValueError("session state keeps integers of at most 64 bits") from None
    return packed


def unpack_value(packed: bytes) -> Any:
    """A new copy of the value; its arrays are read-only.

    Raises:
        Exception: the bytes are damaged.
    """
    return msgpack.unpackb(packed, ext_hook=_array, strict_map_key=False, unicode_errors="surrogatepass")


def _plain(value: Any, depth: int) -> Any:
    """The value in the types that msgpack knows; subclasses of them become what they are subclasses of."""
    if depth > DEPTH_LIMIT:
        raise ValueError(f"session state keeps lists and maps to a depth of {DEPTH_LIMIT}")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return _plain_text(value)
    match value:
        case None | bool():
            return value
        case int():
            return int(value)
        case float():
            return float(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case list() | tuple():
            return [_plain(item, depth + 1) for item in value]
        case Mapping():
            return _plain_map(value.items(), depth)
        case np.ndarray():
            return _packed_array(value)
    raise TypeError(f"session state cannot keep {_type_name(value)}")


def _plain_text(value: str) -> str:
    # A subclass may show itself as something else, as members of an Enum do.
    return str.__str__(value)


def _plain_map(items: Iterable[tuple[Any, Any]], depth: int) -> dict[str | int, Any]:
    plain: dict[str | int, Any] = {}
    for key, value in items:
        if not isinstance(key, str | int):
            raise TypeError(f"session state keeps maps whose keys are str or int, not {_type_name(key)}")
        plain[_plain(key, depth)] = _plain(value, depth + 1)
    return plain


def _packed_array(array: np.ndarray[Any, Any]) -> msgpack.ExtType:
    if array.dtype.kind not in _ARRAY_KINDS or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"session state cannot keep {_type_name(array)} of {array.dtype}")
    return msgpack.ExtType(_ARRAY, msgpack.packb([array.dtype.str, array.shape, array.tobytes()]))


def _array(code: int, packed: bytes) -> np.ndarray[Any, Any]:
    if code != _ARRAY:
        raise ValueError(f"no kind of value is written as {code}")
    dtype, shape, content = msgpack.unpackb(packed)
    return np.frombuffer(content, dtype=np.dtype(dtype)).reshape(shape)


def _type_name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
