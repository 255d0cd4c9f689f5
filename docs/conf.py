"""Builds the pages of this folder and the API reference into `build/docs`; `make docs` runs it.

Every warning is an error. What can be wrong and is found: a link to a page, heading or file that is not there, a type
in a signature that the reference does not know, a directive that names what is gone, and a name of this package
in backticks that nothing has. Nothing is fetched, so names of other projects are not followed.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

import aperture

project = "Aperture"
version = release = aperture.__version__
project_copyright = "The Aperture authors"
html_title = f"Aperture {release}"
html_copy_source = False
html_show_sphinx = False
html_show_sourcelink = False
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["aperture.css"]
html_theme_options = {
    "logo": {"text": "Aperture"},
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button-field"],
    "navigation_with_keys": False,
    "show_prev_next": True,
    "show_nav_level": 1,
    # A wide table needs the room more than a list of three headings does.
    "secondary_sidebar_items": {"**": ["page-toc"], "differences": []},
    "article_header_start": [],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "getting-started": []}

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
nitpicky = True

nitpick_ignore_regex = [
    # Python's own, and of the libraries whose types our signatures name.
    (r"py:.*", r"(asyncio|collections|contextlib|enum|types|typing|ssl|pathlib|abc)(\..*)?"),
    (r"py:.*", r"(bokeh|tornado|numpy|pandas)\..*"),
    # The same where a module imports them for type checkers alone, so that their full names cannot be had.
    (r"py:class", r"Application|BrowserLike|BrowserTarget|Document|IOLoop|UIElement"),
    # Ours, which users are given and do not make.
    (r"py:class", r"Session|aperture\.client\.connect_options\.ClientOptions"),
    # Sphinx takes `tuple[str, ...] | None` apart at the comma.
    (r"py:class", r"tuple\[str"),
    (
        r"py:.*",
        r"(BaseException|bool|bytes|dict|float|frozenset|int|list|object|set|str|tuple|type|None|Self|[A-Z]\w?)",
    ),
    (r"py:exc", r"(Exception|Key|Value|Type|OS|Runtime|Connection|Timeout|Permission)(Error)?|SystemExit"),
]

myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_include_init_with_doc = False
python_use_unqualified_type_names = True
default_role = "code-or-name"

REFERENCE = ("aperture", "aperture.gateway.embed", "aperture.client", "aperture.errors", "aperture.config.settings")
"""The modules that the reference documents. Other names of the package are only looked up."""

_NAME = re.compile(r"aperture(\.\w+)+")

log = logging.getLogger(__name__)


class CodeOrName(SphinxRole):
    """What stands in single backticks: code, or the name of something of this package, which must be there."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        code = nodes.literal(self.rawtext, self.text)
        if _NAME.fullmatch(self.text) is None:
            return [code], []
        if not _exists(self.text):
            log.warning("there is no %s", self.text, location=self.get_location())
        owner, _, name = self.text.rpartition(".")
        if owner not in REFERENCE or name.startswith("_"):
            return [code], []
        link = pending_xref("", code, refdomain="py", reftype="obj", reftarget=self.text, refexplicit=False)
        return [link], []


def _exists(name: str) -> bool:
    """Whether this is a module, or an attribute of something that is there."""
    try:
        importlib.import_module(name)
    except ImportError:
        owner, _, attribute = name.rpartition(".")
        return bool(owner) and _has(owner, attribute)
    return True


def _has(owner: str, attribute: str) -> bool:
    try:
        found: Any = importlib.import_module(owner)
    except ImportError:
        module, _, outer = owner.rpartition(".")
        if not module or not _has(module, outer):
            return False
        found = getattr(importlib.import_module(module), outer)
    return hasattr(found, attribute) or attribute in getattr(found, "__annotations__", {})


def read_indented_as_code(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Modules' docstrings show trees and pictures as Markdown does: by indenting them."""
    if what != "module":
        return
    for number in range(len(lines) - 2, 0, -1):
        if lines[number] == "" and lines[number + 1].startswith("    ") and not lines[number - 1].startswith(" "):
            lines[number:number] = ["", "::"]


def keep_colons(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what precedes a colon in an attribute's first line for its type; at the line's end it does not."""
    if what in ("attribute", "data", "property") and lines:
        before, colon, after = lines[0].partition(": ")
        if colon:
            lines[:1] = [f"{before}:", after]


def link_out_of_docs(app: Sphinx, page: str, source: list[str]) -> None:
    """Files of the repository that are no pages here are copied beside those that link to them."""
    folder = Path(app.env.doc2path(page)).parent

    def linked(match: re.Match[str]) -> str:
        inside = (folder / match[1]).resolve().is_relative_to(Path(app.srcdir).resolve())
        return match[0] if inside else f"](path:{match[1]})"

    source[0] = _OUTSIDE.sub(linked, source[0])


_OUTSIDE = re.compile(r"\]\(((?:\.\./)+[^)#]+\.md)(#[^)]*)?\)")


def setup(app: Sphinx) -> None:
    app.add_role("code-or-name", CodeOrName())
    app.connect("autodoc-process-docstring", read_indented_as_code, priority=400)  # before Napoleon
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("source-read", link_out_of_docs)
