"""Which connections are pages that come back, and need their arrays inside of the text."""

from __future__ import annotations

from support.peers import in_loop, make_session


@in_loop
async def test_a_session_that_was_somebody_elses_takes_strange_pages_for_returning_ones() -> None:
    """A page of the owner before comes back; one that this session has sent itself does not, nor does a program."""
    session = make_session()
    assert not session.pages.is_return("of an earlier owner")
    session.pages.inherited = True
    assert session.pages.is_return("of an earlier owner")
    assert not session.pages.is_return("of an earlier owner", from_browser=False)
    assert not session.pages.is_return(session.token)


@in_loop
async def test_a_page_that_has_pulled_comes_back() -> None:
    """Whatever it is, and whatever sent it."""
    session = make_session()
    token = session.token
    session.pages.note_pulled(token)
    for from_browser in (True, False):
        assert session.pages.is_return(token, from_browser=from_browser)
