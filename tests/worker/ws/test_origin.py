"""Which websockets are refused for their origin where Tornado is older than 6.6 and takes no browser's word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tornado.httputil import HTTPHeaders

from aperture.worker.http.allowed_origins import AllowedOrigins
from aperture.worker.ws.handler import SessionSocket


class OldSocket(SessionSocket):
    """A websocket on a Tornado that has no such method."""

    _check_cross_origin: Any = None

    def __init__(self, headers: HTTPHeaders) -> None:
        self.request: Any = SimpleNamespace(headers=headers)
        self.services: Any = SimpleNamespace(origins=AllowedOrigins(["dashboard.corp"]))


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({}, True),
        ({"Origin": "http://dashboard.corp"}, True),
        ({"Origin": "http://here:5006", "Host": "here:5006"}, False),
        ({"Origin": "http://here:5006", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": ""}, False),
    ],
)
def test_every_origin_is_asked_about(headers: dict[str, str], admitted: bool) -> None:
    """As Tornado itself would a moment later, without a reason that anybody could read."""
    assert OldSocket(HTTPHeaders(headers))._is_from_allowed_origin() is admitted
