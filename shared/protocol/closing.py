"""The codes that connections are closed with (RFC 6455, section 7.4, and the registry it opens).

Bokeh closes with 10000 and 10001, which are no codes at all: its peers see 1006, or fail.
"""

from __future__ import annotations

__all__ = [
    "ABNORMAL",
    "GOING_AWAY",
    "INTERNAL_ERROR",
    "MESSAGE_TOO_BIG",
    "NORMAL_CLOSURE",
    "NO_CODE",
    "NO_TEXT",
    "POLICY_VIOLATION",
    "PROTOCOL_ERROR",
    "SERVICE_RESTART",
    "TRY_AGAIN_LATER",
    "UNSUPPORTED_DATA",
]

NORMAL_CLOSURE = 1000
"""All is said: the session was ended on purpose."""

GOING_AWAY = 1001
"""The peer ends: a tab that is closed, a server that shuts down."""

PROTOCOL_ERROR = 1002
"""The peer's frames break RFC 6455."""

UNSUPPORTED_DATA = 1003
"""The peer sent a kind of message that is not taken here."""

NO_CODE = 1005
"""Never sent: stands for a close frame without a code (section 7.1.5)."""

ABNORMAL = 1006
"""Never sent: stands for a connection that ended without a close frame."""

NO_TEXT = 1007
"""What the peer sent as text is not UTF-8."""

POLICY_VIOLATION = 1008
"""The peer may not have what it asked for."""

MESSAGE_TOO_BIG = 1009
"""The peer has sent more in one message than is taken."""

INTERNAL_ERROR = 1011
"""Our fault; the session may be in order."""

SERVICE_RESTART = 1012
"""Come back: the worker ends, or the session has moved. BokehJS reconnects after any code."""

TRY_AGAIN_LATER = 1013
"""The peer is too slow, or sends too much."""
