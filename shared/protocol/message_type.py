"""The types of Bokeh's messages, decided once, where a message is assembled."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["MessageType"]


class MessageType(StrEnum):
    """What a message is; equal to its text on the wire."""

    ACK = "ACK"
    OK = "OK"
    ERROR = "ERROR"
    PATCH_DOC = "PATCH-DOC"
    PULL_DOC_REQ = "PULL-DOC-REQ"
    PULL_DOC_REPLY = "PULL-DOC-REPLY"
    PUSH_DOC = "PUSH-DOC"
    SERVER_INFO_REQ = "SERVER-INFO-REQ"
    SERVER_INFO_REPLY = "SERVER-INFO-REPLY"

    REFRESH_REQ = "REFRESH-REQ"
    """Ours, and only between workers: an edge asks its owner on behalf of a viewer that has missed patches."""

    @classmethod
    def of(cls, text: str) -> MessageType | str:
        """The type of this text, or the text itself where the protocol knows no such type.

        What an unknown type means depends on the receiver: a server refuses it, a client says who sent it.
        """
        return _BY_TEXT.get(text, text)


_BY_TEXT = {str(member): member for member in MessageType}
