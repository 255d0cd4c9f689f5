"""The codec: document events and documents to message content, and back.

One name to import from; encoding and decoding share nothing but the wire format.
"""

from aperture.protocol.decode import decode_document, decode_patch
from aperture.protocol.encode import EncodedEvent, EventEncoder, encode_document, is_scalar, join_events
from aperture.protocol.frames import Buffer

__all__ = [
    "Buffer",
    "EncodedEvent",
    "EventEncoder",
    "decode_document",
    "decode_patch",
    "encode_document",
    "is_scalar",
    "join_events",
]
