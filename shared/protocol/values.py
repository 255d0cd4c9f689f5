"""Property values to JSON: Bokeh's own serializer with shortcuts where the shape of a value is common.

Equivalence comes from inheritance: whatever is not recognised here is encoded by `bokeh.core.serialization.Serializer`.
The shortcuts rest on one idea: orjson walks a list of plain numbers or strings thirty times faster than Python does, so
such a list is put into the representation as it is, once it is proved that Bokeh would leave every item alone. The
proofs are single calls into C: where a `sum` is finite there was no NaN, no infinity and nothing that is not a number,
and `"".join` accepts nothing but strings. Integers that JavaScript cannot hold are noticed by orjson itself; then the
value is encoded again without shortcuts.
"""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from math import isfinite, isnan
from typing import Any, Final

import numpy as np
import orjson
from bokeh.core.property.vectorization import Expr, Field, Value
from bokeh.core.property.wrappers import PropertyValueColumnData, PropertyValueDict, PropertyValueList
from bokeh.core.serialization import Serializer
from bokeh.model import Model
from bokeh.settings import settings

from aperture.protocol.attributes import set_attributes
from aperture.protocol.frames import Buffer

__all__ = ["MAX_SAFE_INT", "ValueEncoder"]

MAX_SAFE_INT: Final = 2**53 - 1
"""The largest integer a JavaScript number holds exactly; Bokeh turns larger ones into floats, with a warning."""

_OPTIONS = orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

_INT32 = np.iinfo(np.int32)
_UINT32_MAX = int(np.iinfo(np.uint32).max)

_BINARY_DTYPES: Final = {
    np.dtype(name): name
    for name in ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
}
"""What BokehJS reads as a typed array, and so what Bokeh sends as a buffer."""

_INT64 = np.dtype(np.int64)

_UNCHANGED: Final = frozenset((type(None), bool, str))
"""Types whose every value is its own encoding."""

_NAN: Final = {"type": "number", "value": "nan"}
_INFINITY: Final = {"type": "number", "value": "+inf"}
_NEGATIVE_INFINITY: Final = {"type": "number", "value": "-inf"}

_SAMPLE: Final = 4096
"""Bytes that tell whether compressing all of them is worth it; 60 us."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class ValueEncoder(Serializer):
    """Encodes values of one message. Made for one message and thrown away; not thread-safe.

    Args:
        next_buffer_id: gives each buffer its name.
        knows: whether the receivers have this model already, so that a reference suffices.
        inline: write arrays as base64 of gzip into the content instead of beside it.
        snapshot: copy array data that the app may change; without it the caller frames the buffers at once.
    """

    def __init__(
        self,
        *,
        next_buffer_id: Callable[[], str],
        knows: Callable[[Model], bool] | None = None,
        inline: bool = False,
        snapshot: bool = True,
    ) -> None:
        super().__init__(deferred=not inline)
        self.written: list[Model] = []
        """Models that were written out in full."""
        self.beside: list[Buffer] = []
        """Buffers that the content refers to."""
        self._next_buffer_id = next_buffer_id
        self._knows = knows
        self._snapshot = snapshot
        self._shortcuts = True

    def render(self, build: Callable[[], Any]) -> bytes:
        """JSON of what `build` makes with this encoder.

        Raises:
            SerializationError: a value that Bokeh cannot serialize either.
        """
        try:
            return orjson.dumps(build(), self.encode, _OPTIONS)
        except Exception:
            # An integer beyond 53 bits, a lone surrogate, or something truly unserializable. Without shortcuts it comes
            # out right, or fails at the place and with the error that Bokeh would fail with.
            self._restart_exactly()
        text = json.dumps(build(), default=self.encode, allow_nan=False, separators=(",", ":"))
        return text.encode()

    def _restart_exactly(self) -> None:
        self._shortcuts = False
        self._references.clear()
        self.written.clear()
        self.beside.clear()

    def encode(self, obj: Any) -> Any:
        """The JSON-ready representation of one value."""
        handler = _HANDLERS.get(type(obj))
        if handler is not None:
            return handler(self, obj)
        if isinstance(obj, Model):
            return self._encode_model(obj)
        return super().encode(obj)

    def _encode_model(self, model: Model) -> Any:
        ref = self._references.get(id(model))
        if ref is not None:
            return ref
        if self._knows is not None and self._knows(model):
            ref = self._references[id(model)] = model.ref
            return ref
        attributes = set_attributes(model) if self._omits_defaults else None
        if attributes is None:
            rep: Any = model.to_serializable(self)
        else:
            # Known before its attributes are encoded, so that cycles end.
            self._references[id(model)] = model.ref
            rep = {"type": "object", "name": model.__qualified_model__, "id": model.id}
            if attributes:
                encode = self.encode
                rep["attributes"] = {name: encode(value) for name, value in attributes.items()}
        self.written.append(model)
        return rep

    @cached_property
    def _omits_defaults(self) -> bool:
        return not settings.serialize_include_defaults()

    def _encode_list(self, obj: Sequence[Any]) -> Any:
        if self._shortcuts and obj:
            if type(obj[0]) is np.float64 and {np.float64}.issuperset(map(type, obj)):
                obj = list(map(float, obj))
            if _is_plain(obj):
                return obj
        encode = self.encode
        # What most items of a mixed list are is decided here; a call for each would cost three times as much. The
        # difference of a float and itself is zero unless it is infinite or NaN.
        return [
            item if type(item) in _UNCHANGED or (type(item) is float and item - item == 0.0) else encode(item)
            for item in obj
        ]

    def _encode_dict(self, obj: dict[Any, Any]) -> Any:
        if not obj:
            return {"type": "map"}
        encode = self.encode
        return {"type": "map", "entries": [(encode(key), encode(value)) for key, value in obj.items()]}

    def _encode_plain_float(self, obj: float) -> Any:
        if isfinite(obj):
            return obj
        return _NAN if isnan(obj) else _NEGATIVE_INFINITY if obj < 0 else _INFINITY

    def _encode_plain_int(self, obj: int) -> Any:
        return obj if -MAX_SAFE_INT < obj <= MAX_SAFE_INT else self._encode_int(obj)

    def _encode_ndarray(self, obj: np.ndarray[Any, Any]) -> Any:
        if type(obj) is np.ndarray and obj.ndim:
            dtype = obj.dtype
            name = _BINARY_DTYPES.get(dtype)
            if name is not None:
                return self._ndarray_rep(obj, name)
            if dtype == _INT64 and _fits_int32(obj):
                return self._ndarray_rep(obj.astype(np.int32), "int32", fresh=True)
        elif not obj.ndim:
            return self.encode(obj.item())
        return super()._encode_ndarray(obj)

    def _ndarray_rep(self, array: np.ndarray[Any, Any], dtype: str, *, fresh: bool = False) -> Any:
        if fresh or not self._snapshot:
            data: bytes | memoryview = np.ascontiguousarray(array).data
        else:
            data = array.tobytes()  # In C order, whatever the array's own.
        return {
            "type": "ndarray",
            "array": self._bytes_rep(data),
            "shape": array.shape,
            "dtype": dtype,
            "order": sys.byteorder,
        }

    def _encode_bytes(self, obj: bytes | memoryview) -> Any:
        if self._snapshot and isinstance(obj, memoryview):
            obj = obj.tobytes()
        return self._bytes_rep(obj)

    def _bytes_rep(self, obj: bytes | memoryview) -> Any:
        if not self._deferred:
            return {"type": "bytes", "data": _inline(obj)}
        buffer = Buffer(self._next_buffer_id(), _flat(obj))
        self.beside.append(buffer)
        return {"type": "bytes", "data": {"id": buffer.id}}


def _is_plain(items: Sequence[Any]) -> bool:
    """Whether Bokeh would encode each item to itself (integers apart, see the module's docstring)."""
    first = type(items[0])
    try:
        if first is str:
            "".join(items)
            return True
        if first is float or first is int or first is bool:
            return _is_finite(sum(items))
        if first is tuple or first is list:
            return {tuple, list}.issuperset(map(type, items)) and _is_finite(sum(map(sum, items)))
    except Exception:
        # Addition runs whatever the items define, so anything may come of it; all of it means "not plain".
        return False
    return False


def _is_finite(total: Any) -> bool:
    return (type(total) is float or type(total) is int) and isfinite(total)


def _fits_int32(array: np.ndarray[Any, Any]) -> bool:
    return not array.size or (array.min() >= _INT32.min and array.max() <= _INT32.max)


def _flat(obj: bytes | memoryview) -> bytes | memoryview:
    """The same memory as unsigned bytes, so that its length is its size."""
    if isinstance(obj, bytes):
        return obj
    return obj.cast("B") if obj.nbytes else b""


def _inline(obj: bytes | memoryview) -> str:
    data = _flat(obj)
    level = settings.compression_level(default=_worthwhile_level(data))  # a value that the user has set goes first
    # A fixed time, so that the same data gives the same text.
    return base64.b64encode(gzip.compress(data, compresslevel=level, mtime=1)).decode()


def _worthwhile_level(data: bytes | memoryview) -> int:
    """0, stored, or 1, the fastest, where a sample from the middle shrinks to less than half.

    Measurements as floats lose a tenth at any level, for 20 ms a megabyte of the event loop; integers, categories and
    times two thirds at level 1 already, for 6 ms. BokehJS reads both.
    """
    start = max(0, len(data) - _SAMPLE) // 2
    sample = data[start : start + _SAMPLE]
    return 1 if len(zlib.compress(sample, 1)) * 2 < len(sample) else 0


def _milliseconds(_: ValueEncoder, moment: dt.datetime) -> float:
    """Bokeh reads the clock's face as UTC, whatever the zone."""
    return (moment.replace(tzinfo=dt.UTC) - _EPOCH).total_seconds() * 1000


def _itself(_: ValueEncoder, obj: Any) -> Any:
    return obj


_HANDLERS: Final[dict[type, Callable[[Any, Any], Any]]] = {
    type(None): _itself,
    bool: _itself,
    str: _itself,
    float: ValueEncoder._encode_plain_float,
    int: ValueEncoder._encode_plain_int,
    list: ValueEncoder._encode_list,
    tuple: ValueEncoder._encode_list,
    dict: ValueEncoder._encode_dict,
    PropertyValueList: ValueEncoder._encode_list,
    PropertyValueDict: ValueEncoder._encode_dict,
    PropertyValueColumnData: ValueEncoder._encode_dict,
    np.ndarray: ValueEncoder._encode_ndarray,
    np.float64: lambda self, obj: self._encode_plain_float(float(obj)),
    np.int64: lambda self, obj: self._encode_plain_int(int(obj)),
    Value: lambda self, obj: obj.to_serializable(self),
    Field: lambda self, obj: obj.to_serializable(self),
    Expr: lambda self, obj: obj.to_serializable(self),
    dt.datetime: _milliseconds,
}
"""By exact type, and only types that live as long as the process: each session's app code makes its classes anew."""
