"""Names of the models that hold the parameters of components which apps define.

Panel makes such a model's class with the component's, and numbers it among all of that name in its process: a script
defines its components anew for each session. But a session that goes on in another worker is put back by the ids and
the names of its models, where as many sessions have rarely been made before it. So a name says here where the component
is defined, and is the same in every worker and for each session of an app.

Bokeh writes the definitions of all such classes of its process into each document, for as long as the process lives.
Here there is one for all sessions, and it goes with the last.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import panel.custom
import panel.io.datamodel
from bokeh.document import Document
from panel.io.state import state

from aperture.worker.document.classes import taking_the_name
from aperture.worker.panel.components import SCRIPTS

__all__ = ["install"]

_USERS = (panel.io.datamodel, panel.custom)
"""Modules of Panel that have the function by its name."""

_name = "construct_data_model"

_by_session: WeakKeyDictionary[Document, Counter[str]] = WeakKeyDictionary()
_by_process: Counter[str] = Counter()


def install() -> None:
    """Have Panel name such classes by this. Once per process; what Panel itself has defined keeps its names."""
    constructs = _named(getattr(panel.io.datamodel, _name))
    for module in _USERS:
        setattr(module, _name, constructs)


def _named(construct: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(construct)
    def constructed(parameterized: Any, name: str | None = None, *args: Any, **kwargs: Any) -> Any:
        component = parameterized if isinstance(parameterized, type) else type(parameterized)
        name = _name_of(component)
        with taking_the_name(name):
            model = construct(parameterized, name, *args, **kwargs)
        if component.__module__.startswith(SCRIPTS):
            model.__module__ = component.__module__  # with which Bokeh is made to forget it
        return model

    return constructed


def _name_of(component: type) -> str:
    """The component's own name, the place of its definition, and a number if one place defines several."""
    document, module = state.curdoc, component.__module__
    if module.startswith(SCRIPTS) and document is not None and document.session_context is not None:
        # The name of such a module is drawn for each session.
        module = document.session_context.server_context.application_context.url
    place = hashlib.sha256(f"{module} {component.__qualname__}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
    name = f"{component.__name__}_{place}"
    counted = _by_process if document is None else _by_session.setdefault(document, Counter())
    counted[name] += 1
    return name if counted[name] == 1 else f"{name}_{counted[name]}"
