"""Every exception of the project, and the exit codes of its processes.

    ApertureError
    ├── PeerError                what the other side sent is wrong; its connection is answered or closed
    │   ├── TokenError           malformed, wrongly signed, expired, or too large a token
    │   ├── ProtocolError        a websocket message that breaks Bokeh's protocol; carries a close code
    │   ├── WireError            what another process of ours sent is no message, or is of another wire version
    │   ├── NestedTooDeeply      a patch would make the document deeper than can be encoded
    │   └── UnknownReference     a patch names a model that the document never had
    ├── SessionError             the session cannot do what was asked
    │   ├── SessionGone          the session was discarded meanwhile
    │   ├── OwnedElsewhere       another worker has it; says which
    │   ├── NotTheirs            it is, or was, another user's
    │   ├── PageRefused          a page that was sent before its session was made cannot show it; carries a close code
    │   ├── OwnerGone            the worker that has it does not answer; claim it again
    │   ├── TooLarge             its document is larger than may be stored
    │   ├── Unencodable          its document holds what cannot be encoded, and cannot be stored until that is replaced
    │   ├── StateMismatch        the stored state of a session does not fit the document that its app makes now
    │   ├── NotLocked            the document was changed without its lock
    │   ├── AppQuit              app code has raised what ends more than that code, `sys.exit()` for one
    │   └── WouldDeadlock        code that has a document's lock waits for a lock whose owner waits for it
    ├── ClientError              what was asked of a client's session was not done
    │   ├── CannotConnect        no session was opened; the text says why
    │   │   ├── BadAddress       no server can have such an address
    │   │   ├── ServerUnreachable   no server answers there
    │   │   ├── NotAServer       something answers, and it is no Bokeh server
    │   │   ├── NoSuchApp        a server, without an app at this path
    │   │   └── Refused          the server does not let this client in
    │   │       ├── OriginRefused    for the origin that it names
    │   │       ├── NotLoggedIn      the app wants to know the user
    │   │       └── TokenRefused     expired, wrongly signed, or malformed
    │   ├── ServerGone           the connection was lost
    │   ├── ServerSilent         no answer in time
    │   │   └── LoopBlocked      no answer in time, perhaps because the caller keeps the server from running
    │   ├── ServerGarbled        what the server sent breaks Bokeh's protocol; also a ProtocolError
    │   ├── MessageTooLarge      a message is larger than one side takes
    │   ├── RequestFailed        the server answered with an error
    │   ├── Overloaded           more changes were made than can wait for the server
    │   └── SessionClosed        the session has been closed by this side
    ├── BusError                 what needed Redis was not done
    │   ├── BusDown              the connection is down or was lost meanwhile; ask again later
    │   │   ├── BusFull              Redis has no memory left for what is written
    │   │   └── OwnerUnknown         Redis was emptied or cut off a moment ago, and owners come back to it
    │   ├── BusUnavailable       no connection could be made; the text says why
    │   ├── Fenced               another worker owns the session now
    │   ├── CallFailed           another worker did not answer a request; the text says why
    │   ├── TransferFailed       what another worker offered, too large for one message, could not be fetched
    │   └── StoredStateBroken        the stored state of the session cannot be continued; store it anew
    └── ConfigurationError       the options contradict each other, or name something that is not there
        └── AppLoadError         an app cannot be loaded; carries the app's own traceback

A peer's fault never takes the server down and is logged in one line; ours is logged with its traceback.
"""

from __future__ import annotations

from enum import IntEnum

from aperture.protocol.closing import PROTOCOL_ERROR

__all__ = [
    "ApertureError",
    "AppLoadError",
    "AppQuit",
    "BadAddress",
    "BusDown",
    "BusError",
    "BusFull",
    "BusUnavailable",
    "CallFailed",
    "CannotConnect",
    "ClientError",
    "ConfigurationError",
    "ExitCode",
    "Fenced",
    "LoopBlocked",
    "MessageTooLarge",
    "NestedTooDeeply",
    "NoSuchApp",
    "NotAServer",
    "NotLocked",
    "NotLoggedIn",
    "NotTheirs",
    "OriginRefused",
    "Overloaded",
    "OwnedElsewhere",
    "OwnerGone",
    "OwnerUnknown",
    "PageRefused",
    "PeerError",
    "ProtocolError",
    "Refused",
    "RequestFailed",
    "ServerGarbled",
    "ServerGone",
    "ServerSilent",
    "ServerUnreachable",
    "SessionClosed",
    "SessionError",
    "SessionGone",
    "StateMismatch",
    "StoredStateBroken",
    "TokenError",
    "TokenRefused",
    "TooLarge",
    "TransferFailed",
    "Unencodable",
    "UnknownReference",
    "WireError",
    "WouldDeadlock",
]


class ExitCode(IntEnum):
    """What a process of a node tells its parent by exiting."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    """Options that contradict each other; the same code that argparse uses."""
    CANNOT_BIND = 3
    """The port or socket path is taken or not ours to use."""
    APP_BROKEN = 4
    """An app cannot be loaded: starting again would end the same way, so the node stops instead of looping."""
    KILLED = 5
    """Something had to be killed because it outlived the grace period."""
    NO_BUS = 6
    """Redis cannot be reached, or refuses the login, and the node is not configured to wait for it."""


class ApertureError(Exception):
    """The root of every exception that this project raises on purpose."""


class PeerError(ApertureError):
    """The other side sent something wrong."""


class TokenError(PeerError):
    """A token that cannot be accepted; the text says why, without quoting the token."""


class ProtocolError(PeerError):
    """A websocket message that breaks Bokeh's protocol.

    Args:
        reason: what is wrong, short enough for a close frame (123 bytes at most are sent).
        close_code: the RFC 6455 code the connection is closed with.
    """

    def __init__(self, reason: str, close_code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.close_code = close_code


class WireError(PeerError, ValueError):
    """What another process of ours sent, or a stranger in its name, is no message, or is of another wire version."""


class NestedTooDeeply(PeerError):
    """What a patch would make of the document is nested more deeply than any encoder takes."""


class UnknownReference(PeerError):
    """A patch names a model that the document does not have and never had."""


class SessionError(ApertureError):
    """The session cannot do what was asked of it."""


class SessionGone(SessionError):
    """The session was discarded between the request and its turn."""


class OwnedElsewhere(SessionError):
    """Another worker has the session.

    Args:
        owner: that worker's name.
    """

    def __init__(self, owner: str) -> None:
        super().__init__("the session is another worker's")
        self.owner = owner


class NotTheirs(SessionError):
    """A session that outlived its worker was another user's."""


class PageRefused(SessionError):
    """A page that was sent before its session was made cannot show it: the app has failed, or has a page of its own.

    Args:
        reason: for the close frame.
        close_code: the RFC 6455 code that the page's websocket is closed with.
    """

    def __init__(self, reason: str, close_code: int) -> None:
        super().__init__(reason)
        self.close_code = close_code


class OwnerGone(SessionError):
    """The worker that has the session does not answer, or has just lost it."""


class StateMismatch(SessionError):
    """The stored state of a session is damaged, or does not fit the document that its app makes now."""


class TooLarge(SessionError):
    """The session's document is larger than may be stored of one; nothing of it is stored any more."""


class Unencodable(SessionError):
    """The document holds something that cannot be encoded. It cannot be stored until the app replaces that."""


class NotLocked(SessionError, RuntimeError):
    """The document was changed outside its lock."""


class AppQuit(SessionError, RuntimeError):
    """App code has called `sys.exit()`, or has raised something else that would end more than that code."""


class WouldDeadlock(SessionError, RuntimeError):
    """Code that has locked a document waits for a lock whose owner waits for it, perhaps the same one."""


class ClientError(ApertureError):
    """What was asked of a client's session was not done."""


class CannotConnect(ClientError, OSError):
    """No session was opened; the text says why. An `OSError`, which is what Bokeh's client raises.

    Args:
        text: what is wrong.
        status: the HTTP status that the server answered with, if it did.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class BadAddress(CannotConnect, ValueError):
    """The address is not of a form that a server's can have."""


class ServerUnreachable(CannotConnect):
    """No server answers at the address: no such host, a closed port, or a certificate that is not trusted here."""


class NotAServer(CannotConnect):
    """Something answers at the address that does not speak Bokeh's protocol."""


class NoSuchApp(CannotConnect):
    """The server has no app at the path of the address."""


class Refused(CannotConnect):
    """The server does not let this client in."""


class OriginRefused(Refused):
    """The server accepts no websockets from the origin that the client's headers name."""


class NotLoggedIn(Refused):
    """The server wants to know the user; headers or cookies must say it."""


class TokenRefused(Refused):
    """The client's token is expired, wrongly signed or malformed, or the session's id is."""


class ServerGone(ClientError, ConnectionError, RuntimeError):
    """The connection to the server was lost.

    Args:
        text: how, as far as this side can tell.
        close_code: the websocket's, if there was one.
    """

    def __init__(self, text: str, close_code: int | None = None) -> None:
        super().__init__(text)
        self.close_code = close_code


class ServerSilent(ClientError, TimeoutError):
    """The server did not answer in time."""


class LoopBlocked(ServerSilent):
    """No answer in time to a blocking call that was made inside of a running event loop.

    Nothing else runs on that loop meanwhile. If the server is to run on it, no answer can come.
    """


class ServerGarbled(ClientError, ProtocolError):
    """What the server sent breaks Bokeh's protocol, or is a document that cannot be made here."""


class MessageTooLarge(ClientError):
    """A message is larger than this client, or the server, takes.

    Args:
        text: which of them.
        close_code: the websocket's, if the server has ended the connection for it.
    """

    def __init__(self, text: str, close_code: int | None = None) -> None:
        super().__init__(text)
        self.close_code = close_code


class RequestFailed(ClientError, RuntimeError):
    """The server answered with an error; the text is the server's."""


class Overloaded(ClientError, BufferError):
    """More changes were made than can wait for the server. This one is not sent, and will be undone."""


class SessionClosed(ClientError, RuntimeError):
    """The session has been closed by this side."""


class BusError(ApertureError):
    """An operation that needs Redis was not done, or its outcome is unknown."""


class BusDown(BusError):
    """The connection to Redis is down, or was lost before the answer came: then it may have been done or not."""


class BusFull(BusDown):
    """Redis has no memory for what was to be written; the connection is there, and what needs no memory goes on."""


class OwnerUnknown(BusDown):
    """Redis was emptied or cut off a moment ago and does not know yet which sessions live: ask again within seconds."""


class BusUnavailable(BusError):
    """No connection to Redis could be made; the text says where to and why, without a password."""


class Fenced(BusError):
    """Another worker owns the session now, or it was claimed again: the caller must drop its copy."""


class CallFailed(BusError):
    """Another worker did not answer a request; the text says why.

    Args:
        reason: the text.
        listens: whether that worker may live: false where nothing is subscribed to its channel.
    """

    def __init__(self, reason: str, *, listens: bool = True) -> None:
        super().__init__(reason)
        self.listens = listens


class TransferFailed(BusError):
    """What another worker offered, because it is too large for one message, could not be fetched; the text says why."""


class StoredStateBroken(BusError):
    """What Redis keeps of a session cannot be continued: there is a hole, or nothing, or Redis refuses to keep more.

    It is never rebuilt wrongly for that: either what is there is whole, or it counts as nothing. Keep it anew.
    """


class ConfigurationError(ApertureError, ValueError):
    """The options contradict each other, or name something that is not there."""


class AppLoadError(ConfigurationError):
    """An app cannot be loaded.

    Args:
        path: the app as it was named on the command line.
        detail: the app's own traceback, as text.
    """

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"cannot load the app {path}:\n{detail}")
        self.path = path
        self.detail = detail
