"""Facts about model classes: the same answers as Bokeh's own, also for classes that apps define."""

from __future__ import annotations

from typing import Any

import bokeh.document.document
import pytest
from bokeh.core.has_props import HasProps, _default_resolver
from bokeh.core.properties import Dict, Int, List, Override, String
from bokeh.core.property.descriptors import PropertyDescriptor
from bokeh.core.validation.check import check_integrity
from bokeh.model import Model
from bokeh.models import Column, LinearAxis, Plot, Row
from bokeh.models.widgets import Slider
from bokeh.plotting import figure

from aperture.worker.document.lean import facts, reading

CONCRETE = [Slider, Plot, Column, LinearAxis, figure]


@pytest.fixture(autouse=True)
def _no_new_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes of these tests must not stay in Bokeh's list, through which pages look for extensions."""
    resolver: Any = _default_resolver
    monkeypatch.setattr(resolver, "_known_models", dict(resolver._known_models))


@pytest.fixture(autouse=True)
def _bokehs_own_answers_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[tuple[object, str]] = [
        (HasProps, "_overridden_defaults"),
        (PropertyDescriptor, "has_unstable_default"),
        (bokeh.document.document, "check_integrity"),
    ]
    for owner, name in owners:
        monkeypatch.setattr(owner, name, owner.__dict__[name])


def test_overridden_defaults_are_bokehs_for_every_model_class() -> None:
    """What a class and its bases override is the same, asked once or twice."""
    for cls in Model.model_class_reverse_map.values():
        expected = facts._bokehs_defaults(cls)
        assert facts.overridden_defaults(cls) == expected
        assert facts.overridden_defaults(cls) == expected


@pytest.mark.parametrize("cls", CONCRETE)
def test_unstable_defaults_are_bokehs(cls: type[Model]) -> None:
    """Which defaults each model needs its own copy of is the same, asked once or twice."""
    model = cls()
    for _ in range(2):
        for name in cls.properties():
            descriptor = cls.lookup(name)
            assert facts.has_unstable_default(descriptor, model) == bool(facts._bokehs_unstable(descriptor, model))


def test_a_subclass_does_not_inherit_its_bases_answers() -> None:
    """Defaults that a class overrides do not show in its base, nor the base's in place of its own."""

    class Base(HasProps):
        count: Any = Int(default=1)
        names: Any = List(String)

    class Derived(Base):
        count = Override(default=2)
        names = Override(default=lambda: ["a"])

    assert facts.overridden_defaults(Base) == {}
    assert facts.overridden_defaults(Derived)["count"] == 2
    assert set(facts.overridden_defaults(Derived)) == {"count", "names"}
    names = Base.lookup("names")
    assert facts.has_unstable_default(names, Base()) == facts._bokehs_unstable(names, Base())
    assert facts.has_unstable_default(names, Derived())


def test_models_made_after_the_installation_do_not_share_mutable_defaults() -> None:
    """Two models of one class still have lists and dicts of their own."""
    facts.install()
    facts.install()

    class Shelf(HasProps):
        books: Any = List(String, default=["one"])
        prices: Any = Dict(String, Int)

    first, second = Shelf(), Shelf()
    first.books.append("two")
    first.prices["one"] = 1
    assert second.books == ["one"]
    assert second.prices == {}
    assert figure().toolbar is not figure().toolbar


def test_checks_find_what_bokehs_find() -> None:
    """Errors and warnings about models are the same, and in the same order."""
    models = [figure(), Row(), Plot(), Column(children=[figure(width=0)]), Slider(start=0, end=1)]
    for _ in range(2):
        ours, bokehs = reading.check_integrity(models), check_integrity(models)
        assert ours == bokehs
        assert ours.warning or ours.error
