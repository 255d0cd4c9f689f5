"""Lean models are the models that Bokeh has: what apps, viewers and Bokeh's own code see of them is the same."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from bokeh.core.has_props import HasProps, Local
from bokeh.core.properties import Instance, Int, List
from bokeh.core.property.wrappers import PropertyValueContainer, PropertyValueList
from bokeh.models import ColumnDataSource, Range1d
from bokeh.models.widgets import Div, Slider
from support.model_story import APPS, MODELS, differences

from aperture.worker.document import lean
from aperture.worker.document.lean.facts import facts_of

SEED = 1


@pytest.fixture(autouse=True)
def lean_models() -> None:
    """As workers have them."""
    lean.install()


def test_models_of_every_class() -> None:
    """Made, read, set, unset, changed in place, themed, copied, serialized, each class of Bokeh's and Panel's."""
    assert differences(MODELS, SEED) == []


def test_what_apps_do() -> None:
    """Classes and defaults of their own, themes, shared lists, columns, and whole apps tell what they told before."""
    assert differences(APPS) == []


def test_installing_twice() -> None:
    """The second time changes nothing, so that several servers of one program may do it."""
    before = {name: HasProps.__dict__[name] for name in ("__init__", "__setattr__", "query_properties_with_values")}
    lean.install()
    assert {name: HasProps.__dict__[name] for name in before} == before


class TestWhatIsNotMade:
    """The point of it all."""

    def test_lists_that_nobody_looks_at(self) -> None:
        """A model has no list, set or dict until it is looked at, and then its own."""
        one, other = Div(), Div()
        assert not any(isinstance(value, PropertyValueContainer) for value in one._unstable_default_values.values())
        one.tags.append(1)
        assert (one.tags, other.tags) == ([1], [])
        assert one.tags is one.tags

    def test_lists_that_are_only_serialized(self) -> None:
        """Neither serializing a model nor looking for what it refers to makes them."""
        models: list[Any] = [Div(), Slider(start=0, end=1, value=0), Range1d(), ColumnDataSource()]
        for model in models:
            model.properties_with_values(include_defaults=False)
            model.references()
        held = [value for model in models for value in model._unstable_default_values.values()]
        assert not any(isinstance(value, PropertyValueContainer) for value in held)

    def test_lists_that_are_replaced_as_they_were(self) -> None:
        """Setting a list to what it is, in a model that nobody listens to, stores nothing."""
        div = Div(tags=[], styles={})
        assert div._property_values == {}
        assert div._unstable_default_values.keys() & {"tags", "styles"} == set()

    def test_one_owner(self) -> None:
        """A list keeps its only owner without a set; a second one makes it, and both are told of changes."""
        one, other = Div(tags=["a"]), Div()
        assert one.tags._owners == {(one, Div.tags)}
        assert type(one.tags.__dict__["_owners"]) is tuple
        other.tags = one.tags
        assert one.tags._owners == {(one, Div.tags), (other, Div.tags)}
        told: list[str] = []
        one.on_change("tags", lambda attr, old, new: told.append("one"))
        other.on_change("tags", lambda attr, old, new: told.append("other"))
        one.tags.append("b")
        assert sorted(told) == ["one", "other"]
        shared = one.tags
        one.tags = []
        assert shared._owners == {(other, Div.tags)}
        other.tags = []
        assert shared._owners == set()


class TestContainersThatTravel:
    """Between processes with lean models and without."""

    def test_from_bokeh(self) -> None:
        """A list that stock Bokeh has pickled is read, with its owners."""
        code = (
            "import pickle, sys\nfrom bokeh.core.property.wrappers import PropertyValueList\n"
            "made = PropertyValueList([1])\nmade._owners = {('owner', 'descriptor')}\n"
            "sys.stdout.buffer.write(pickle.dumps(made))"
        )
        made = pickle.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        assert (made, made._owners) == ([1], {("owner", "descriptor")})

    def test_to_bokeh(self) -> None:
        """A list that was pickled here has its owners in stock Bokeh, too, which can read only empty ones."""
        made: Any = PropertyValueList()
        made._register_owner("owner", "descriptor")
        code = (
            "import pickle, sys\nmade = pickle.load(sys.stdin.buffer)\n"
            "assert made == [] and made._owners == {('owner', 'descriptor')}\n"
        )
        subprocess.run([sys.executable, "-c", code], input=pickle.dumps(made), check=True)

    def test_models_that_were_there_before(self) -> None:
        """What stock Bokeh has made goes on as if it had been made here, as after a fork."""
        code = (
            "from bokeh.models import Div\nfrom bokeh.core.serialization import Serializer\n"
            "div = Div(tags=['a'])\nuntouched = div.styles\n"
            "from aperture.worker.document import lean\nlean.install()\n"
            "heard = []\nfor name in ('tags', 'styles'):\n"
            "    div.on_change(name, lambda attr, old, new: heard.append((attr, old, type(old)(new))))\n"
            "div.tags.append('b')\ndiv.styles['color'] = 'red'\n"
            "assert div.styles is untouched\n"
            "assert heard == [('tags', ['a'], ['a', 'b']), ('styles', {}, {'color': 'red'})], heard\n"
            "assert Serializer().encode(div)['attributes'].keys() == {'tags', 'styles'}\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestFacts:
    """Of classes."""

    def test_classes_go_away(self) -> None:
        """What is known of a class that a script has defined goes with it."""

        class Mine(HasProps, Local):
            numbers = List(Int, default=[1])
            range = Instance(Range1d, default=lambda: Range1d())

        mine = Mine()
        mine.numbers.append(2)
        assert facts_of(Mine) is not None
        gone = weakref.ref(Mine)
        del mine, Mine
        gc.collect()
        assert gone() is None

    def test_functions_are_not_called(self) -> None:
        """Looking at a class makes none of its defaults: they might be models, and take ids."""
        called = []

        class Mine(HasProps, Local):
            range = Instance(Range1d, default=lambda: called.append(1) or Range1d())

        facts_of(Mine)
        assert called == []
        mine = Mine()
        assert (called, mine.range is mine.range) == ([1], True)

    def test_facts_are_of_one_class(self) -> None:
        """A class that derives from another has its own."""
        assert facts_of(Slider) is not facts_of(Slider.__mro__[1])  # type: ignore[arg-type]
        assert facts_of(ColumnDataSource) is facts_of(ColumnDataSource)


def test_the_stories_have_a_voice() -> None:
    """They notice when models are not the same: a comparison that finds nothing would hold anything."""
    assert Path(MODELS).is_file()
    code = (
        f"import sys\nsys.path.insert(0, {str(MODELS.parent)!r})\nimport model_story\n"
        "one = {'name': 'n', 'seed': 1, 'steps': [['a', 1], ['b', 2]]}\n"
        "assert not list(model_story._differences(one, dict(one)))\n"
        "other = {**one, 'steps': [['a', 1], ['b', 3]]}\n"
        "assert 'step 1' in next(model_story._differences(one, other))\n"
        "assert 'step 1' in next(model_story._differences(one, {**one, 'steps': one['steps'][:1]}))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
