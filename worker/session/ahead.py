"""A request that has not come yet: what an app sees whose session is made ahead.

It has no arguments, and nothing else of it is known. Code that asks for the rest stops there, and its session cannot be
made ahead. When a visitor has the session, the same object shows that visitor's request: the app may have kept it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from aperture.worker.session.context import AppSessionContext
from aperture.worker.session.host import Origin
from aperture.worker.session.session_request import SessionRequest

__all__ = ["REASONS", "AheadPayload", "AheadRequest", "AskedTooEarly", "Questions", "ahead_origin", "fulfil"]

_KNOWN: dict[str, Any] = {
    "arguments": {},
    "body": b"",
    "body_arguments": {},
    "method": "GET",
    "query": "",
    "query_arguments": {},
}
"""What all requests without arguments have in common."""

_PAYLOAD = "token payload"

_OF_ONE_KEY = ("__contains__", "__getitem__", "get", "pop", "setdefault")

_OF_ALL = (
    *("__eq__", "__iter__", "__len__", "__ne__", "__or__", "__repr__", "__reversed__", "__ror__"),
    *("copy", "items", "keys", "popitem", "values"),
)
"""With those above, the methods of dict that show something of it."""

_ADDRESS = frozenset(("full_url", "host", "host_name", "path", "protocol", "remote_ip", "uri"))

REASONS = ("address", "cookies", "headers", _PAYLOAD, "other", "error")
"""Why no session of an app is made ahead: what its code asks for, or that it fails."""


class AskedTooEarly(BaseException):
    """App code asks for what is not known before there is a visitor.

    No `Exception`: code that handles those itself would go on, with an answer of no request.
    """


class Questions:
    """What the code of one session has asked for too early; also if it has handled even that."""

    def __init__(self) -> None:
        self.asked: str | None = None
        """The first of it, one of `REASONS`."""

    def ask(self, name: str) -> AskedTooEarly:
        """Note a question; returns what to raise."""
        reason = "address" if name in _ADDRESS else name if name in REASONS else "other"
        self.asked = self.asked or reason
        return AskedTooEarly(name)


class AheadRequest(SessionRequest):
    """Stands for a request without arguments, and later for the one that comes."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._come: SessionRequest | None = None

    def fulfil(self, request: SessionRequest) -> None:
        """Show this one from now on."""
        self._come = request

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if self._come is not None:
            return getattr(self._come, name)
        if name in _KNOWN:
            return copy(_KNOWN[name])
        raise self._questions.ask(name)


class AheadPayload(dict[str, Any]):
    """Stands for the payload of a token that is not issued yet; later it is filled in.

    Each method that shows something of it looks first; they are set below.
    """

    def __init__(self, questions: Questions) -> None:
        super().__init__(arguments={})
        self._questions = questions
        self._come = False

    def fulfil(self, payload: dict[str, Any]) -> None:
        """Be this one from now on."""
        self._come = True
        self.update(payload)

    def _look(self, name: str) -> None:
        if not self._come and name != "arguments":
            raise self._questions.ask(name if name in REASONS else _PAYLOAD)


def _looking(name: str) -> Callable[..., Any]:
    """A method of dict that first looks whether what it shows is known."""
    method = getattr(dict, name)

    def look(self: AheadPayload, *args: Any) -> Any:
        self._look(str(args[0]) if name in _OF_ONE_KEY else _PAYLOAD)
        return method(self, *args)

    return look


for _name in (*_OF_ONE_KEY, *_OF_ALL):
    setattr(AheadPayload, _name, _looking(_name))


def ahead_origin(questions: Questions) -> Origin:
    """What a session is made from that was not asked for yet."""
    return Origin(AheadRequest(questions), AheadPayload(questions))


def fulfil(context: AppSessionContext, origin: Origin) -> None:
    """Show the app the request that has come, also where it has kept what stood for it."""
    request, payload = context.request, context.token_payload
    if isinstance(request, AheadRequest) and origin.request is not None:
        request.fulfil(origin.request)
    if isinstance(payload, AheadPayload):
        payload.fulfil(origin.payload)
    context.fulfil(origin.request, origin.payload)
