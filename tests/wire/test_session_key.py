"""Names of sessions on the bus."""

from __future__ import annotations

from aperture.wire.session_key import place_of, place_parts


def test_a_place_has_its_app_and_its_session() -> None:
    """There and back, with every character that a session id or a route may have."""
    assert place_parts(place_of("/an/app", "id_-.:/x")) == ("/an/app", "id_-.:/x")
    assert place_of("/one", "id") != place_of("/two", "id")
