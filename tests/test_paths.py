"""Routes and URLs: what is sent is decoded, what is shown is encoded, and what cannot be either is refused."""

from __future__ import annotations

import os
from urllib.parse import quote

import pytest

from aperture.errors import ConfigurationError
from aperture.paths import checked_route, path_of, quoted, requoted

NAMES = [
    "/my app",
    "/Übersicht",
    "/a[1]",
    "/c+d",
    "/v1.2",
    "/50%",
    "/what?",
    "/x#y",
    "/a&b",
    "/(p)",
    "/q'u\"o",
    "/a%20b",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_route_comes_back_from_its_url(name: str) -> None:
    """From ours, and from that of a client which encodes everything that it can."""
    assert path_of(quoted(name)) == name
    assert path_of(quote(name)) == name
    assert quoted(name).isascii()
    assert not set(quoted(name)) & set(" ?#\"'<>&;[]")


def test_a_plain_route_is_its_own_url() -> None:
    """So that no URL changes that has been right before."""
    assert quoted("/sliders-2.0_x/deep") == "/sliders-2.0_x/deep"


def test_bytes_that_were_not_encoded_are_read_as_utf_8() -> None:
    """As `curl http://host/Übersicht` sends them; HTTP parsers read latin-1."""
    assert path_of("/Übersicht".encode().decode("latin-1")) == "/Übersicht"


@pytest.mark.parametrize("sent", ["/%ff", "/%c3", "/\u20ac"])
def test_what_is_no_text_is_no_path(sent: str) -> None:
    """Nothing is served there."""
    assert path_of(sent) is None


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/my app", "/my%20app"),
        ("/my%20app", "/my%20app"),
        ("/50%/ü", "/50%25/%C3%BC"),
        ("/user/me@x.org/a&b;c", "/user/me@x.org/a&b;c"),
    ],
)
def test_a_path_that_somebody_wrote_is_made_fit_to_be_sent(written: str, sent: str) -> None:
    """Encoded or not, or one part of it; a second time changes nothing."""
    assert requoted(written) == sent
    assert requoted(sent) == sent


@pytest.mark.parametrize("name", ["/a\tb", "/a\nb", "/a\x1b[2J", "/a\u2028b", "/" + os.fsdecode(b"caf\xe9")])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    """The complaint can be shown."""
    with pytest.raises(ConfigurationError, match="not plain text") as refused:
        checked_route(name)
    assert str(refused.value).isascii()
    assert checked_route("/Übersicht \U0001f469\u200d\U0001f4bb 2") == "/Übersicht \U0001f469\u200d\U0001f4bb 2"
