"""The page of a session as Bokeh's own template makes it, rendered once; each session's page only fills in the gaps.

Bokeh renders six templates for each page, of which all sessions of an app have the same text but for a few ids, the
token and the title. `tests/worker/http/test_page_form.py` compares with what Bokeh renders.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from bokeh.core.templates import FILE
from bokeh.embed.bundle import Bundle
from bokeh.embed.elements import html_page_for_render_items
from bokeh.embed.util import RenderItem
from bokeh.util.serialization import make_globally_unique_css_safe_id, make_globally_unique_id
from markupsafe import escape

from aperture.protocol.json_text import presentable

__all__ = ["PageForm", "fits"]

_PLAIN = re.compile(r"[A-Za-z0-9_.:-]+")
"""What is written the same in HTML and in a JSON string. Tokens and the ids that are not an app's own are."""

_DATA = re.compile(r'<script type="application/json" id="([^"]+)">')
"""Bokeh makes up an id for the script that holds documents, of which a server's page has none."""


@dataclass(frozen=True, slots=True)
class _StandIn:
    """What the template reads of a root."""

    id: str
    name: str = ""
    tags: list[str] = field(default_factory=list, hash=False)


@dataclass(frozen=True, slots=True)
class PageForm:
    """A page with gaps.

    Args:
        text: with gaps as the operator `%` knows them.
        roots: of the documents that it is for.
    """

    text: str
    roots: int

    @classmethod
    def render(cls, bundle: Bundle, roots: int) -> PageForm:
        """Have Bokeh render the page of a document with so many roots.

        Args:
            bundle: scripts and styles of the page.
            roots: their number.
        """
        mark = secrets.token_hex(16)  # stands nowhere else in the page
        stand_ins = {_StandIn(f"{mark}root{n}."): f"{mark}element{n}." for n in range(roots)}
        item = RenderItem(token=f"{mark}token.", roots=stand_ins, use_for_title=True)  # type: ignore[arg-type]
        page = html_page_for_render_items(bundle, {}, [item], f"{mark}title.", template=FILE)
        data = _DATA.search(page)
        if data is None:
            raise AssertionError("Bokeh's page has a script for its documents")
        page = page.replace(data[1], f"{mark}data.").replace("%", "%%")
        return cls(re.sub(rf"{mark}(\w+)\.", r"%(\1)s", page), roots)

    def fill(self, title: str, token: str, root_ids: Iterable[str]) -> str:
        """The page of one session, whose title and root ids `fits`."""
        gaps = {"title": presentable(escape(title)), "token": token}
        for number, root_id in enumerate(root_ids):
            gaps[f"root{number}"] = root_id
            gaps[f"element{number}"] = make_globally_unique_id()
        gaps["data"] = make_globally_unique_css_safe_id()
        return self.text % gaps


def fits(title: object, token: str, root_ids: Iterable[object]) -> bool:
    """Whether these are written into a form as they would be into the template. Apps may choose titles and ids."""
    texts = (token, *root_ids)
    return bool(title) and type(title) is str and all(type(text) is str and _PLAIN.fullmatch(text) for text in texts)
