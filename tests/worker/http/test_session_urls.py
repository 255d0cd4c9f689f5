"""The URL of a session, made of the one that was asked for."""

from __future__ import annotations

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from aperture.worker.http.session_urls import location_of, names_otherwise


def request_for(path: str, **headers: str) -> HTTPServerRequest:
    line = RequestStartLine("GET", path, "HTTP/1.1")
    fields = HTTPHeaders({"Host": "h"} | {name.replace("_", "-"): value for name, value in headers.items()})
    request = HTTPServerRequest(start_line=line, headers=fields)
    request.connection = None
    return request


@pytest.mark.parametrize(
    ("asked", "location"),
    [
        ("/app", "?bokeh-session-id=new"),
        ("/app?", "?bokeh-session-id=new"),
        ("/app?a=1&b", "?a=1&b&bokeh-session-id=new"),
        ("/app?a=%E4+b&a=%26", "?a=%E4+b&a=%26&bokeh-session-id=new"),
        ("/app?bokeh-session-id=old&a=1", "?a=1&bokeh-session-id=new"),
        ("/app?bokeh%2Dsession-id=old&bokeh-session-id=older", "?bokeh-session-id=new"),
        ("/app?x=bokeh-session-id", "?x=bokeh-session-id&bokeh-session-id=new"),
    ],
)
def test_all_other_arguments_stay_letter_by_letter(asked: str, location: str) -> None:
    assert location_of(request_for(asked), "new") == location


def test_an_id_is_quoted() -> None:
    """Where ids are not signed, a program may have chosen any text."""
    assert location_of(request_for("/app"), "a b&c=ä") == "?bokeh-session-id=a+b%26c%3D%C3%A4"


def test_programs_name_sessions_by_header_or_token() -> None:
    assert names_otherwise(request_for("/app", Bokeh_Session_Id="x"))
    assert names_otherwise(request_for("/app?bokeh-token=x"))
    assert not names_otherwise(request_for("/app?bokeh-session-id=x"))
