"""Whom a list, set or dict of a model tells that it was changed in place.

Bokeh gives each of them a set of its owners. Nearly all have one owner, so that one is kept by itself, and a set comes
with the second. Pickled and copied, they are as Bokeh's are, so that processes with and without this can exchange them.
"""

from __future__ import annotations

from threading import RLock
from typing import Any, TypeAlias

from bokeh.core.has_props import HasProps
from bokeh.core.property.descriptors import PropertyDescriptor
from bokeh.core.property.wrappers import PropertyValueContainer

__all__ = ["install"]

Owner: TypeAlias = tuple[HasProps, PropertyDescriptor[Any]]

_OWNERS = "_owners"
"""In the container's own dictionary: an `Owner`, or a set of them; what Bokeh and pickle put there is a set, too."""

_sharing = RLock()
"""Held while owners come to be several or fewer: threads may give one list to two models at once. By one thread more
than once, too, since models of an app's own may be compared by code of its own."""


def install() -> None:
    """Have Bokeh keep owners in this way; see the package."""
    container: Any = PropertyValueContainer
    container._owners = property(owners, _set_owners)
    container.__init__ = _init
    container.__getstate__ = _getstate
    container._register_owner = register_owner
    container._unregister_owner = unregister_owner
    container._notify_owners = notify_owners


def _init(self: PropertyValueContainer, *args: Any, **kwargs: Any) -> None:
    """Stands in for `PropertyValueContainer.__init__`."""
    super(PropertyValueContainer, self).__init__(*args, **kwargs)


def owners(self: PropertyValueContainer) -> set[Owner]:
    """All owners."""
    kept = self.__dict__.get(_OWNERS)
    if kept is None:
        return set()
    return {kept} if type(kept) is tuple else kept


def _set_owners(self: PropertyValueContainer, kept: set[Owner]) -> None:
    self.__dict__[_OWNERS] = kept


def register_owner(self: PropertyValueContainer, owner: HasProps, descriptor: PropertyDescriptor[Any]) -> None:
    """Stands in for `PropertyValueContainer._register_owner`."""
    only = (owner, descriptor)
    if self.__dict__.setdefault(_OWNERS, only) is only:
        return
    with _sharing:
        kept = self.__dict__.setdefault(_OWNERS, only)
        if type(kept) is not tuple:
            kept.add(only)
        elif kept != only:
            self.__dict__[_OWNERS] = {kept, only}


def unregister_owner(self: PropertyValueContainer, owner: HasProps, descriptor: PropertyDescriptor[Any]) -> None:
    """Stands in for `PropertyValueContainer._unregister_owner`."""
    with _sharing:
        kept = self.__dict__.get(_OWNERS)
        if type(kept) is not tuple:
            if kept is not None:
                kept.discard((owner, descriptor))
        elif kept == (owner, descriptor):
            del self.__dict__[_OWNERS]


def notify_owners(self: PropertyValueContainer, old: Any, hint: Any = None) -> None:
    """Stands in for `PropertyValueContainer._notify_owners`."""
    kept = self.__dict__.get(_OWNERS)
    if type(kept) is tuple:
        owner, descriptor = kept
        descriptor._notify_mutated(owner, old, hint=hint)
    elif kept is not None:
        for owner, descriptor in kept:
            descriptor._notify_mutated(owner, old, hint=hint)


def _getstate(self: PropertyValueContainer) -> dict[str, Any]:
    return {**self.__dict__, _OWNERS: owners(self)}
