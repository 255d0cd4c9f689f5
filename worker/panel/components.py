"""Files that components bring along, from the worker whose session has the component's class.

Panel serves such a file by the module of the class. The module of an app's script is as old as its session and is in
one worker only, and a module beside the script can be imported only where the script has run. So the address of such a
file names the session and its app: by that it is found wherever the session is, as its page is.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import panel.custom
import panel.io.resources
import panel.template.base
import panel.theme.base
from bokeh.document import Document
from panel.io.server import ComponentResourceHandler
from panel.io.state import state
from tornado.web import HTTPError

from aperture.protocol.naming import SESSION_ID_ARGUMENT

__all__ = ["APP_ARGUMENT", "SCRIPTS", "file_of", "install"]

APP_ARGUMENT = "app"
"""Of such an address: the route of the session's app."""

SCRIPTS = "bokeh_app_"
"""What the names of modules begin with that Bokeh makes for scripts."""

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")})
"""Where what every worker can import is. Its addresses name no session: a browser may keep those files."""

_USERS = (panel.custom, panel.io.resources, panel.template.base, panel.theme.base)
"""Modules of Panel that have the function by its name."""

_name = "component_resource_path"


def install() -> None:
    """Have Panel name the session in the addresses of such files. Once per process."""
    addressed = _with_session(getattr(panel.io.resources, _name))
    for module in _USERS:
        setattr(module, _name, addressed)


def file_of(document: Document, path: str) -> bytes | None:
    """A file of a component of a session's app; None if there is none, or the class does not list it.

    Args:
        document: of the session.
        path: module, class, attribute and file, as in Panel's addresses.
    """
    module, _, rest = path.partition("/")
    if module.startswith(SCRIPTS):
        # Found by the class: where the session went on in another worker, its script ran again, in another module.
        own = _module_with(document, rest.partition("/")[0])
        if own is None:
            return None
        path = f"{own}/{rest}"
    try:
        file = Path(ComponentResourceHandler.parse_url_path(_Resolver(), path))
        return file.read_bytes() if file.is_file() else None
    except (HTTPError, OSError):
        return None


class _Resolver:
    """A `ComponentResourceHandler`, as far as it finds files."""

    _resource_attrs = ComponentResourceHandler._resource_attrs


def _module_with(document: Document, name: str) -> str | None:
    for module in document.modules._modules:
        if isinstance(getattr(module, name, None), type):
            return module.__name__
    return None


def _with_session(address: Callable[..., str]) -> Callable[..., str]:
    @wraps(address)
    def addressed(component: Any, attr: str, path: Any) -> str:
        found = address(component, attr, path)
        context = None if state.curdoc is None else state.curdoc.session_context
        if context is None or _is_installed((component if isinstance(component, type) else type(component)).__module__):
            return found
        app = context.server_context.application_context.url
        named = urlencode({SESSION_ID_ARGUMENT: context.id, APP_ARGUMENT: app})
        return f"{found}{'&' if '?' in found else '?'}{named}"

    return addressed


def _is_installed(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return not module.startswith(SCRIPTS) and file is not None and file.startswith(_INSTALLED)
