"""What an app sees of its session and of the request that made it."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document
from bokeh.models.widgets import Div
from support.peers import Peer, in_loop
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from aperture.worker.session.context import AppServerContext, AppSessionContext
from aperture.worker.session.host import AppHost, Origin
from aperture.worker.session.session_request import SessionRequest


def request() -> SessionRequest:
    return SessionRequest(
        HTTPServerRequest(
            start_line=RequestStartLine("GET", "/app?a=1", "HTTP/1.1"), headers=HTTPHeaders(Host="example.org:5006")
        ),
        arguments={"a": [b"1"]},
        cookies={"c": "2"},
        headers={"Host": "example.org:5006"},
    )


def test_the_chosen_parts_hide_those_of_the_request() -> None:
    """Arguments, cookies and headers are as the options left them, everything else as it came."""
    seen = request()
    assert (seen.arguments, seen.cookies, seen.headers) == ({"a": [b"1"]}, {"c": "2"}, {"Host": "example.org:5006"})
    assert (seen.method, seen.path, seen.uri, seen.host) == ("GET", "/app", "/app?a=1", "example.org:5006")
    with pytest.raises(AttributeError):
        _ = seen.no_such_thing


def test_private_names_are_not_looked_up() -> None:
    """Copying and pickling ask for them before there is a request to ask."""
    with pytest.raises(AttributeError):
        _ = request()._anything
    assert copy.copy(request()).path == "/app"
    with pytest.raises(AttributeError):
        pickle.loads(pickle.dumps(SessionRequest.__new__(SessionRequest))).path  # noqa: B018


def host() -> AppHost:
    application = Application(FunctionHandler(lambda document: document.add_root(Div(text=""))))
    return AppHost("/app", application, logout_url=None, issue_token=str)


@in_loop
async def test_the_document_may_be_locked_before_and_after_the_session_is_there() -> None:
    """Hooks that run first have it to themselves; later the lock is the session's, and viewers get the changes."""
    document = Document()
    context = AppSessionContext(
        "s", AppServerContext(host()), document, request=None, token_payload={}, logout_url=None
    )
    seen: list[Any] = []

    async def slow(locked: Document) -> None:
        seen.append(locked)

    await context.with_locked_document(seen.append)
    await context.with_locked_document(slow)
    assert seen == [document, document]

    session = await host().build("s", Origin(request(), {}))
    peer = Peer.pulled(session)
    made: Any = session.context  # Bokeh's type asks for coroutines and knows no request; its apps do otherwise
    await made.with_locked_document(lambda locked: locked.roots[0].update(text="changed"))
    assert peer.read() == ["PATCH-DOC"]
    assert made.request is not None
    assert made.request.path == "/app"
    session.destroy()
    assert made.destroyed
    await made.with_locked_document(lambda locked: locked.roots[0].update(text="too late"))
    [root] = session.document.roots
    assert isinstance(root, Div)
    assert root.text == "changed"


def test_hooks_do_not_keep_the_app_alive() -> None:
    """A server context that app code kept is empty when its host is gone."""
    owner = host()
    context = owner.server_context
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
    assert context.application_context is None
    assert list(context.sessions) == []
