"""Classes that apps' code registers with Bokeh by defining them, and that must go with the module that defined them.

Bokeh has tables of all models, events and changes there are, by name, for as long as the process lives. It looks
through the first for every page and imports the module of each class in it, so one class whose module has gone makes
every page of every app fail. A script's module is as old as its session.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

from bokeh.core.has_props import HasProps, _default_resolver
from bokeh.core.serialization import Deserializer, Serializer
from bokeh.document.events import DocumentPatchedEvent
from bokeh.events import _CONCRETE_EVENT_CLASSES, Event

__all__ = ["forget_classes", "only_packaged_models", "taking_the_name"]


class _Table(NamedTuple):
    """One of Bokeh's tables of classes.

    Args:
        root: what all classes in it derive from.
        attr: of a class, which has its name in the table.
        classes: the classes by name.
    """

    root: type
    attr: str
    classes: dict[str, Any]


def forget_classes(module: str) -> None:
    """Take the classes of a module that goes out of Bokeh's tables.

    Args:
        module: its name.
    """
    for table in _tables():
        for name, cls in list(table.classes.items()):
            if cls.__module__ == module:
                _forget(table, name, cls)
    by_kind: tuple[dict[Any, Any], ...] = (Serializer._encoders, Deserializer._decoders)
    for coders in by_kind:
        for kind in [kind for kind, coder in coders.items() if module in (_module_of(kind), _module_of(coder))]:
            del coders[kind]


@contextmanager
def only_packaged_models() -> Iterator[None]:
    """Hide the models whose packages have no file, where Bokeh looks for what an extension brings along.

    They may be alive and of use: those of `app_hooks.py`, whose module is in no table, or of a package without an
    `__init__.py`. Bokeh fails for them, and with it every page.
    """
    models = _tables()[0].classes
    packaged: dict[str, bool] = {}
    hidden = {}
    for name, cls in list(models.items()):  # a session that is made in a thread may define more meanwhile
        package = cls.__view_module__.partition(".")[0]
        if package not in packaged:
            packaged[package] = _has_file(package)
        if not packaged[package]:
            hidden[name] = cls
    for name in hidden:
        del models[name]
    try:
        yield
    finally:
        models.update(hidden)


@contextmanager
def taking_the_name(name: str) -> Iterator[None]:
    """Let a model be defined by a name that one of another session may have, without Bokeh's warning of that.

    Args:
        name: in Bokeh's table of models.
    """
    models = _tables()[0].classes
    before = models.pop(name, None)
    try:
        yield
    except BaseException:
        if before is not None:
            models[name] = before
        raise


def _tables() -> tuple[_Table, ...]:
    # Bokeh replaces the first one when it clears extensions.
    models: dict[str, Any] = _default_resolver._known_models  # type: ignore[attr-defined]
    return (
        _Table(HasProps, "__qualified_model__", models),
        _Table(Event, "event_name", _CONCRETE_EVENT_CLASSES),
        _Table(DocumentPatchedEvent, "kind", DocumentPatchedEvent._handlers),
    )


def _forget(table: _Table, name: str, cls: type) -> None:
    """Take a class out; what it has pushed out of the table, Bokeh's own or that of another session, comes back."""
    del table.classes[name]
    if name.startswith(f"{cls.__module__}."):
        return  # a name of its own module: it pushed none out
    for other in _descendants(table.root):
        if (
            vars(other).get(table.attr) == name
            and other.__module__ != cls.__module__
            and other.__module__ in sys.modules
        ):
            table.classes[name] = other


def _descendants(cls: type) -> Iterator[type]:
    children: list[type] = type.__subclasses__(cls)
    for child in children:
        yield child
        yield from _descendants(child)


def _has_file(package: str) -> bool:
    loaded = sys.modules.get(package)
    if loaded is not None:
        return getattr(loaded, "__file__", None) is not None
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.has_location


def _module_of(value: object) -> str | None:
    return getattr(value, "__module__", None)
