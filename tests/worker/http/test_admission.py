"""Which session a request is for, whether it may have it, and what the app sees of the request."""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any
from urllib.parse import quote

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.application.handlers.lifecycle import LifecycleHandler
from bokeh.core.types import ID
from bokeh.util.token import generate_jwt_token, generate_session_id
from hypothesis import given
from hypothesis import strategies as st
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.web import HTTPError

from aperture.config.settings import Settings
from aperture.protocol.tokens import Tokens, read_expiry
from aperture.worker.http.admission import admit_page, origin_of, verify
from aperture.worker.session.session_request import SessionRequest

KEY = b"a key that is not known"
UNSIGNED = Tokens(None, False, 300)
SIGNED = Tokens(KEY, True, 300)
HOST = "example.org:5006"
NO_HOOKS = Application(FunctionHandler(lambda document: None))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.fixed_dictionaries({"bytes": st.just("eA")}),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
"""Bytes among it, as Bokeh writes them."""


def request(uri: str = "/app", **headers: str) -> HTTPServerRequest:
    named = {"Host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
    made = HTTPServerRequest(start_line=RequestStartLine("GET", uri, "HTTP/1.1"), headers=HTTPHeaders(named))
    made.remote_ip = "192.0.2.7"
    made.protocol = "https"
    return made


def refused(made: HTTPServerRequest, tokens: Tokens, **options: Any) -> str:
    """The reason of the 403."""
    with pytest.raises(HTTPError) as caught:
        admit_page(made, tokens, **{"generate_ids": True, **options})
    assert caught.value.status_code == 403
    assert caught.value.reason is not None
    return str(caught.value.reason)


class TestAdmission:
    """`admit_page`."""

    @pytest.mark.parametrize("tokens", [UNSIGNED, SIGNED])
    def test_a_request_that_names_no_session_gets_a_new_one(self, tokens: Tokens) -> None:
        """Another each time, and one that will be admitted."""
        one, other = (admit_page(request(), tokens, generate_ids=True) for _ in range(2))
        assert one.token is None
        assert one.session_id != other.session_id
        assert tokens.check_session_id(one.session_id)

    def test_without_generated_ids_a_session_must_be_named(self) -> None:
        """As `--session-ids external-signed` wants it."""
        assert refused(request(), SIGNED, generate_ids=False) == "No bokeh-session-id provided"

    def test_an_id_is_taken_from_the_query_or_the_header(self) -> None:
        """The last one, as Tornado reads arguments."""
        assert admit_page(request("/app?bokeh-session-id=a"), UNSIGNED, generate_ids=False).session_id == "a"
        assert admit_page(request("/app?bokeh-session-id=a&bokeh-session-id=b"), UNSIGNED, generate_ids=True) == (
            admit_page(request("/app?bokeh-session-id=b"), UNSIGNED, generate_ids=True)
        )
        assert admit_page(request(Bokeh_Session_Id="c"), UNSIGNED, generate_ids=True).session_id == "c"

    def test_two_names_are_one_too_many(self) -> None:
        """Whichever two, so that it is never open which one was meant."""
        token = UNSIGNED.issue("a")
        assert "argument and header" in refused(request("/app?bokeh-session-id=a", Bokeh_Session_Id="a"), UNSIGNED)
        assert "Both" in refused(request(f"/app?bokeh-session-id=a&bokeh-token={token}"), UNSIGNED)
        assert "Both" in refused(request(f"/app?bokeh-token={token}", Bokeh_Session_Id="a"), UNSIGNED)

    @pytest.mark.parametrize("name", ["", "a", "a.b", "a." + "x" * 43])
    def test_an_id_with_a_wrong_signature_is_refused(self, name: str) -> None:
        """Where ids are signed; an empty one names nothing anywhere."""
        assert refused(request(Bokeh_Session_Id=name), SIGNED) == "Invalid token or session ID"

    def test_an_empty_id_is_refused(self) -> None:
        """Unsigned ids are any text but none."""
        assert refused(request(Bokeh_Session_Id=""), UNSIGNED) == "Invalid token or session ID"

    @pytest.mark.parametrize("name", ["x" * 1025, "\N{TURTLE}" * 257, "\ud800"])
    def test_an_id_that_cannot_travel_is_refused(self, name: str) -> None:
        """Too long in bytes, or no text at all: also in a token, where JSON can hold what UTF-8 cannot."""
        assert refused(request(Bokeh_Session_Id=name), UNSIGNED) == "Invalid token or session ID"
        token = UNSIGNED.issue(name)
        assert refused(request(f"/app?bokeh-token={token}"), UNSIGNED) == "Invalid token or session ID"

    def test_ids_and_tokens_that_bokeh_made_are_admitted(self) -> None:
        """With `bokeh.util.token` and the same key, as an embedding page does."""
        session_id = generate_session_id(secret_key=KEY, signed=True)
        assert admit_page(request(Bokeh_Session_Id=session_id), SIGNED, generate_ids=False).session_id == session_id
        token = generate_jwt_token(session_id, secret_key=KEY, signed=True, extra_payload={"user": "ann"})
        admission = admit_page(request(f"/app?bokeh-token={token}"), SIGNED, generate_ids=False)
        assert admission.session_id == session_id
        assert admission.token is not None
        assert admission.token.payload == {"user": "ann"}

    @pytest.mark.parametrize("token", ["x", "%", "a.b", "e30", "{}", "\xff"])
    def test_a_token_that_is_none_is_refused_without_quoting_it(self, token: str) -> None:
        """403 rather than Bokeh's 500."""
        assert refused(request(f"/app?bokeh-token={quote(token)}"), UNSIGNED) == "Invalid token or session ID"

    def test_a_token_signed_with_another_key_is_refused(self) -> None:
        """And one without a signature, where there must be one."""
        session_id = SIGNED.new_session_id()
        other = Tokens(b"another key", True, 300)
        for token in (other.issue(session_id), UNSIGNED.issue(session_id)):
            with pytest.raises(HTTPError) as caught:
                verify(SIGNED, token)
            assert caught.value.status_code == 403


def seen(
    made: HTTPServerRequest, application: Application = NO_HOOKS, token: str | None = None, **options: Any
) -> tuple[SessionRequest, dict[str, Any]]:
    """What the app would see."""
    verified = None if token is None else UNSIGNED.verify(token)
    origin = origin_of(made, verified, Settings(**options), application)
    assert origin.request is not None
    return origin.request, origin.payload


class TestOrigin:
    """`origin_of`."""

    def test_an_app_sees_arguments_headers_and_cookies(self) -> None:
        """In its request, and in the token's payload as in Bokeh."""
        page, payload = seen(request("/app?a=1&a=2&b=%20", User_Agent="test", Cookie="one=1; two=2"))
        assert page.arguments == {"a": [b"1", b"2"], "b": [b" "]}
        assert page.cookies == {"one": "1", "two": "2"}
        assert page.headers["User-Agent"] == "test"
        assert (payload["arguments"], payload["cookies"]) == (page.arguments, page.cookies)
        assert payload["headers"]["User-Agent"] == "test"

    def test_the_session_id_is_no_argument_of_the_apps(self) -> None:
        """It is in the context; the payload keeps it, as in Bokeh."""
        page, payload = seen(request("/app?bokeh-session-id=s&a=1"))
        assert page.arguments == {"a": [b"1"]}
        assert "bokeh-session-id" in payload["arguments"]

    def test_the_request_keeps_nothing_of_its_connection(self) -> None:
        """The app may keep it as long as its session lives."""
        page, _ = seen(request("/app?a=1"))
        assert (page.path, page.uri, page.query, page.host) == ("/app", "/app?a=1", "a=1", HOST)
        assert (page.remote_ip, page.protocol, page.method) == ("192.0.2.7", "https", "GET")
        assert page.full_url() == "https://example.org:5006/app?a=1"
        assert page.connection is None

    @pytest.mark.parametrize(
        ("uri", "path"), [("/app/ws?a=1", "/app"), ("/ws", "/"), ("/app", "/app"), ("/prefix/app/ws", "/prefix/app")]
    )
    def test_a_session_made_by_a_websocket_sees_its_pages_path(self, uri: str, path: str) -> None:
        """Panel works out its base URL from it."""
        page, _ = seen(request(uri))
        assert page.path == path

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, {"Accept", "User-Agent", "Host"}),
            ({"include_headers": ("user-agent",)}, {"User-Agent"}),
            ({"include_headers": ("User-Agent",)}, {"User-Agent"}),
            ({"exclude_headers": ("ACCEPT",)}, {"User-Agent", "Host"}),
            ({"include_headers": ()}, set()),
        ],
    )
    def test_headers_are_chosen_by_name(self, options: dict[str, Any], expected: set[str]) -> None:
        """Without regard to case."""
        page, payload = seen(request(User_Agent="test", Accept="text/html"), **options)
        assert set(page.headers) == set(payload["headers"]) == expected

    @pytest.mark.parametrize(
        ("options", "cookies", "header"),
        [
            ({}, {"one": "1", "two": "2"}, "one=1; two=2"),
            ({"include_cookies": ("one",)}, {"one": "1"}, "one=1"),
            ({"exclude_cookies": ("one",)}, {"two": "2"}, "two=2"),
            ({"include_cookies": ()}, {}, None),
            ({"exclude_cookies": ("one", "two")}, {}, None),
            ({"exclude_headers": ("Cookie",)}, {"one": "1", "two": "2"}, None),
            ({"include_headers": ("Accept",)}, {"one": "1", "two": "2"}, None),
            ({"include_headers": ("Cookie",), "exclude_cookies": ("one",)}, {"two": "2"}, "two=2"),
            ({"include_headers": ("Cookie",), "include_cookies": ()}, {}, None),
            ({"include_headers": ("Cookie",)}, {"one": "1", "two": "2"}, "one=1; two=2"),
        ],
    )
    def test_cookies_left_out_are_nowhere(
        self, options: dict[str, Any], cookies: dict[str, str], header: str | None
    ) -> None:
        """Neither among the cookies nor in the Cookie header."""
        page, payload = seen(request(Cookie="one=1; two=2"), **options)
        assert page.cookies == payload["cookies"] == cookies
        assert page.headers.get("Cookie") == payload["headers"].get("Cookie") == header

    def test_what_a_token_carries_is_used(self) -> None:
        """It was made with the page's request, and the websocket's own is another one."""
        carried = {"headers": {"Host": "page"}, "cookies": {"c": "1"}, "arguments": {"a": [b"1"]}, "more": "x"}
        token = generate_jwt_token(ID("s"), extra_payload=carried)
        page, payload = seen(request("/app/ws?b=2", Cookie="d=2", Host="socket"), token=token)
        assert page.headers == {"Host": "page", "Cookie": "c=1"}
        assert page.cookies == {"c": "1"}
        assert page.arguments == {"a": [b"1"]}
        assert payload["more"] == "x"

    def test_a_token_that_carries_nothing_leaves_the_request_to_speak(self) -> None:
        """Ours never do, nor do those of `bokeh.client`."""
        page, payload = seen(request("/app/ws?b=2", Cookie="d=2"), token=UNSIGNED.issue("s"))
        assert page.arguments == {"b": [b"2"]}
        assert page.cookies == {"d": "2"}
        assert set(payload) == {"session_expiry", "headers", "cookies", "arguments"}

    def test_an_app_sees_until_when_its_token_is_good(self) -> None:
        """That which came with the request, in a websocket or from an app of another's; else that of the new page."""
        token = UNSIGNED.issue("s", now=1000.0)
        assert seen(request("/app/ws"), token=token)[1]["session_expiry"] == read_expiry(token) == 1000 + 300
        before = int(time.time())
        _, payload = seen(request(), session_token_expiration=60)
        assert before + 60 <= payload["session_expiry"] <= time.time() + 60

    def test_an_apps_own_payload_is_added(self) -> None:
        """What its `process_request` hook returns; not where the token has been through it already."""

        class Hook(LifecycleHandler):
            def process_request(self, request: Any) -> dict[str, Any]:
                return {"user": request.headers.get("X-User"), "path": request.path}

        application = Application(Hook(), FunctionHandler(lambda document: None))
        _, payload = seen(request(X_User="ann"), application)
        assert (payload["user"], payload["path"]) == ("ann", "/app")
        carried = {"headers": {}, "cookies": {}, "arguments": {}, "user": "bob"}
        token = generate_jwt_token(ID("s"), extra_payload=carried)
        _, payload = seen(request(X_User="ann"), application, token)
        assert payload["user"] == "bob"

    @given(JSON, st.sampled_from(["headers", "cookies", "arguments", "more"]))
    def test_any_json_in_a_token_is_a_request_or_is_refused(self, content: Any, name: str) -> None:
        """Whatever is packed into an unsigned token, the app sees a request's shapes, or 403 is answered."""
        packed = base64.urlsafe_b64encode(zlib.compress(json.dumps({name: content}).encode())).decode()
        fields = json.dumps({"session_id": "s", "__bk__zlib_": packed}).encode()
        try:
            verified = verify(UNSIGNED, base64.urlsafe_b64encode(fields).decode())
        except HTTPError as refusal:
            assert refusal.status_code == 403
            return
        seen_by_app = origin_of(request(), verified, Settings(), NO_HOOKS).request
        assert seen_by_app is not None
        for carried in (seen_by_app.headers, seen_by_app.cookies):
            assert all(isinstance(value, str) for value in carried.values())
        assert all(isinstance(value, bytes) for values in seen_by_app.arguments.values() for value in values)
