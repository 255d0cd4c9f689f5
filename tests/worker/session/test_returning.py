"""Which connections are pages that come back, and need their arrays inside of the text."""

from __future__ import annotations

from support.peers import in_loop, make_session


@in_loop
async def test_a_session_that_was_somebody_elses_takes_strange_pages_for_returning_ones() -> None:
    """A page of the owner before comes back; one that this session has sent itself does not, nor does a program."""
    session = make_session()
    assert not session.is_return("of whoever had the session before")
    session.inherited = True
    assert session.is_return("of whoever had the session before")
    assert not session.is_return("of whoever had the session before", from_browser=False)
    assert not session.is_return(session.token)


@in_loop
async def test_a_page_that_has_pulled_comes_back() -> None:
    """Whatever it is, and whoever sent it."""
    session = make_session()
    token = session.token
    session.remember_pull(token)
    for from_browser in (True, False):
        assert session.is_return(token, from_browser=from_browser)
