"""`pn.config.authorize_callback`: whether a user who is logged in may have a page, asked as Panel's handler asks."""

from __future__ import annotations

from html import escape
from typing import Any

from bokeh.document import Document
from panel.io.server import DocHandler
from panel.io.state import set_curdoc

from aperture.worker.session.framework import Verdict

__all__ = ["as_page", "verdict"]


class _Asked:
    """A `DocHandler`, as far as it asks the callback."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.location: str | None = None

    def redirect(self, url: str) -> None:
        self.location = url


def verdict(document: Document, request: Any, *, of_session: bool) -> Verdict | None:
    """What the callback says; None if the page may be had, or there is no callback.

    Args:
        document: of a session, in which Panel finds the user.
        request: whose path the callback may look at.
        of_session: whether the one is asked that the session's code has set, or the process's.
    """
    asked = _Asked(request)
    with set_curdoc(document):
        authorized, problem = DocHandler._authorize(asked, session=of_session)
        if authorized is None:
            return Verdict(302, location=asked.location)
        return None if authorized else Verdict(403, DocHandler._render_auth_error(asked, problem))


def as_page(refused: Verdict) -> str:
    """The same where only a page can be answered: when a session was made already, perhaps in another worker."""
    if refused.location is None:
        return refused.body
    return f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={escape(refused.location)}">'
