"""Names of sessions on the bus."""

from __future__ import annotations

from aperture.wire.session_key import session_key_of, session_key_parts


def test_a_session_key_has_its_app_and_its_session() -> None:
    """There and back, with every character that a session id or a route may have."""
    assert session_key_parts(session_key_of("/an/app", "id_-.:/x")) == ("/an/app", "id_-.:/x")
    assert session_key_of("/one", "id") != session_key_of("/two", "id")
