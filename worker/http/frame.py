"""The frame of an early page: all of a page but its models, which its websocket brings.

A page of Bokeh's names its roots, so that it can only be written when they are there. BokehJS draws a document whose
roots are not named into one element, as in the pages of others that `autoload.js` is for. The script in the frame
(`templates/early.js`) waits for BokehJS and calls it, in place of the one that Bokeh writes into pages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bokeh.core.templates import AUTOLOAD_JS, FILE, MACROS, get_env
from bokeh.document import Document
from bokeh.document.document import DEFAULT_TITLE
from bokeh.embed.bundle import Bundle, Script

from aperture.protocol.json_text import presentable
from aperture.worker.session.framework import Embedding

__all__ = ["PageFrame", "script_frame"]

_SCRIPT = (Path(__file__).parent / "templates" / "early.js").read_text("utf-8").strip()

_ELEMENT = "aperture-document"

_TOKEN = "TOKEN"

# No scripts in the head, where Bokeh has them: they would keep the browser from showing the indicator.
_TEMPLATE = """\
{% extends base %}
{% block js_resources %}{% endblock %}
{% block inner_body %}
  <div id="{{ element }}"></div>
  <script type="text/javascript">
{{ script }}
  </script>
{% endblock %}
"""


class PageFrame:
    """The page of any session of any app, as long as the scripts are these.

    Args:
        bundle: scripts and styles.
        files: of the scripts, those that come from this server.
    """

    def __init__(self, bundle: Bundle, files: Sequence[str]) -> None:
        _, bokeh_css = bundle
        scripts = Bundle(js_files=bundle.js_files, js_raw=bundle.js_raw)
        settings = {"token": _TOKEN, "elementid": _ELEMENT, "page": True, "files": list(files)}
        settings["rehearsal"] = _rehearsal()
        page = (
            get_env()
            .from_string(_TEMPLATE)
            .render(
                base=FILE,
                macros=MACROS,
                # Every document has a title, which comes with it. This is Bokeh's for those that were given none.
                title=DEFAULT_TITLE,
                bokeh_css=bokeh_css,
                element=_ELEMENT,
                script=_call(settings, scripts),
            )
        )
        self._before, self._after = page.split(f'"{_TOKEN}"')

    def fill(self, token: str) -> str:
        """The page with this token."""
        return f"{self._before}{_json(token)}{self._after}"


def script_frame(bundle: Bundle, files: Sequence[str], token: str, embedding: Embedding) -> str:
    """The script that shows a session in another page.

    Args:
        bundle: scripts and styles; this adds to it.
        files: of the scripts, those that come from this server.
        token: that the page opens its websocket with.
        embedding: where in that page.
    """
    settings: dict[str, Any] = {"token": token, "elementid": embedding.element_id, "page": False}
    settings |= {"files": list(files), "app_path": embedding.app_path, "rehearsal": _rehearsal()}
    if embedding.absolute_url:
        settings["absolute_url"] = embedding.absolute_url
    return presentable(_call(settings, bundle))


def _call(settings: dict[str, Any], bundle: Bundle) -> str:
    """Our script, and for it Bokeh's, which loads what is in the bundle; this adds to it."""
    element_id = settings["elementid"]
    bundle.add(Script(f"document.getElementById({_json(element_id)})?.dispatchEvent(new Event('aperture-loaded'));"))
    loading: str = AUTOLOAD_JS.render(bundle=bundle, elementid=element_id)
    return f"{_SCRIPT}({_json(settings)}, () => {{\n{loading}\n}});"


@cache
def _rehearsal() -> Any:
    """A document of what most apps have, for BokehJS to draw where nobody sees it."""
    # Workers without early pages need none of it.
    from bokeh.layouts import column
    from bokeh.models.widgets import Slider
    from bokeh.plotting import figure

    document = Document()
    plot = figure(width=300, height=200, title="-")
    plot.line([0, 1], [0, 1])
    document.add_root(column(plot, Slider(start=0, end=1, value=0)))
    return document.to_json(deferred=False)


def _json(value: object) -> str:
    """JSON that may stand in a script in HTML, as compact as Bokeh writes it: programs look for tokens in pages."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
