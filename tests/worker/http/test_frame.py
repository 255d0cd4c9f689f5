"""The frame of an early page: Bokeh's page without its roots, and with a script that has BokehJS draw them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from bokeh.document import Document
from bokeh.models.widgets import Div
from support.peers import in_loop

from aperture.worker.document.classes import forget_classes
from aperture.worker.http.frame import script_frame
from aperture.worker.http.render import AUTOLOAD, PAGE, render_early
from aperture.worker.http.resources import PageResources
from aperture.worker.session.early import Making
from aperture.worker.session.framework import BOKEH, Embedding

TOKEN = "eyJzZXNzaW9uX2lkIjogIkEtXyJ9.c2lnbmF0dXJl-_"
RESOURCES = PageResources("/prefix")


@contextmanager
def model_with_a_script() -> Iterator[None]:
    """A model that an app has defined, and that its pages load a script for."""
    module = ModuleType("app_with_a_script")
    module.__file__ = "app.py"
    sys.modules[module.__name__] = module
    try:
        source = "from bokeh.model import Model\nclass Scripted(Model): __javascript__ = ['https://other/script.js']"
        exec(source, vars(module))
        yield
    finally:
        forget_classes(module.__name__)
        del sys.modules[module.__name__]


def head_of(page: str) -> list[tuple[str, str]]:
    """What is loaded by elements: how, and from where."""
    return re.findall(r'<(script|link rel="[^"]+")[^>]* (?:src|href)="([^"]+)"', page)


def test_the_frame_loads_what_the_page_loads() -> None:
    """In the same order; but behind the indicator, which is to be seen meanwhile."""
    document = Document()
    document.add_root(Div())
    page, frame = BOKEH.page(RESOURCES, document, TOKEN), RESOURCES.frame().fill(TOKEN)
    (loaded,) = re.findall(r"const js_urls = (\[.*\])", frame)
    assert json.loads(loaded)
    assert head_of(page) == [("script", file) for file in json.loads(loaded)]
    assert head_of(frame) == [], "scripts that run while the document is read"
    assert all(script in frame for script in RESOURCES.bundle().js_raw)
    assert frame.index("<title>Bokeh Application</title>") < frame.index("<body>")
    assert f'"token":"{TOKEN}"' in frame
    assert f'"files":{loaded}'.replace(", ", ",") in frame


def test_a_token_cannot_end_the_script() -> None:
    assert "</script><b>" not in RESOURCES.frame().fill("</script><b>")


@in_loop
async def test_a_page_suits_plain_documents_as_long_as_the_same_is_loaded() -> None:
    making, resources = Making(None, held=False), PageResources("/prefix")
    assert TOKEN in render_early(resources, making, TOKEN, PAGE, {})
    assert TOKEN in render_early(resources, making, TOKEN, AUTOLOAD, {"element": "here"})
    (token, page_suits), (_, script_suits) = making.frames
    plain, own = Document(), Document()
    own.template_variables["name"] = "value"
    assert (token, page_suits(plain), page_suits(own)) == (TOKEN, True, False)
    assert script_suits(own), "a template is none of another page's"
    with model_with_a_script():
        assert not page_suits(plain)


def test_the_script_of_an_embedded_app_says_where_it_is() -> None:
    where = Embedding("here", "/p/app", "http://other/p/app", "http://other", with_resources=True)
    script = script_frame(RESOURCES.bundle("http://other"), ["http://other/a.js"], TOKEN, where)
    assert '"app_path":"/p/app"' in script
    assert '"absolute_url":"http://other/p/app"' in script
    assert '"files":["http://other/a.js"]' in script
    assert script.index("Starting") < script.index("http://other/prefix/static/js/bokeh")
    assert "aperture-loaded" in script
