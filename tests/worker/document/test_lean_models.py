"""Lean models are the models that Bokeh has: what apps, viewers and Bokeh's own code see of them is the same."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from bokeh.core.has_props import HasProps, Local
from bokeh.core.properties import Instance, Int, List
from bokeh.core.property.bases import Property
from bokeh.core.property.descriptors import PropertyDescriptor
from bokeh.core.property.validation import validate
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
    """Classes and defaults of their own, themes, shared lists, columns, and whole apps report what they did before."""
    assert differences(APPS) == []


def test_installing_twice() -> None:
    """The second time changes nothing, so that several servers of one program may do it."""
    before = {name: HasProps.__dict__[name] for name in ("__init__", "__setattr__", "query_properties_with_values")}
    lean.install()
    assert {name: HasProps.__dict__[name] for name in before} == before


def owners(container: Any) -> Any:
    """The models that a list or dict belongs to, each with the property."""
    return container._owners


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
        """Setting a list to what it is, in a model without listeners, stores nothing."""
        div = Div(tags=[], styles={})
        assert div._property_values == {}
        assert div._unstable_default_values.keys() & {"tags", "styles"} == set()

    def test_one_owner(self) -> None:
        """A list keeps its only owner without a set; a second one makes it, and both get changes."""
        one, other = Div(tags=["a"]), Div()
        assert owners(one.tags) == {(one, Div.tags)}
        assert type(one.tags.__dict__["_owners"]) is tuple
        other.tags = one.tags
        assert owners(one.tags) == {(one, Div.tags), (other, Div.tags)}
        heard: list[str] = []
        one.on_change("tags", lambda attr, old, new: heard.append("one"))
        other.on_change("tags", lambda attr, old, new: heard.append("other"))
        one.tags.append("b")
        assert sorted(heard) == ["one", "other"]
        shared = one.tags
        one.tags = []
        assert owners(shared) == {(other, Div.tags)}
        other.tags = []
        assert owners(shared) == set()


class TestThreads:
    """Of an app, which may share models and lists."""

    def test_one_default_for_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two threads that are the first to look at a list get the same one, which the model has and hears of."""
        both = threading.Barrier(2)
        instance_default = PropertyDescriptor.instance_default

        def at_once(descriptor: PropertyDescriptor[Any], obj: HasProps) -> Any:
            default = instance_default(descriptor, obj)
            both.wait()
            return default

        div, found, heard = Div(), [], []
        monkeypatch.setattr(PropertyDescriptor, "instance_default", at_once)
        with ThreadPoolExecutor(2) as threads:
            found = [future.result() for future in [threads.submit(lambda: div.tags) for _ in range(2)]]
        assert found[0] is found[1] is div.tags
        div.on_change("tags", lambda attr, old, new: heard.append(new))
        found[1].append("a")
        assert heard == [["a"]]

    def test_many_owners_at_once(self) -> None:
        """A list that several threads give to a model each has all of these as its owners."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for _ in range(300):
                container: Any = PropertyValueList()
                names, ready = ["a", "b", "c", "d"], threading.Barrier(4)

                def register(name: str, container: Any = container, ready: threading.Barrier = ready) -> None:
                    ready.wait()
                    container._register_owner(name, "descriptor")

                threads = [threading.Thread(target=register, args=(name,)) for name in names]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert owners(container) == {(name, "descriptor") for name in names}
        finally:
            sys.setswitchinterval(interval)


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
            numbers: Any = List(Int, default=[1])
            range: Any = Instance(Range1d, default=cast("Any", lambda: Range1d()))

        mine = Mine()
        mine.numbers.append(2)
        assert facts_of(Mine) is not None
        gone = weakref.ref(Mine)
        del mine, Mine
        gc.collect()
        assert gone() is None

    def test_functions_are_not_called(self) -> None:
        """Looking at a class makes none of its defaults: they might be models, and take ids."""
        called: list[int] = []

        def made() -> Range1d:
            called.append(1)
            return Range1d()

        class Mine(HasProps, Local):
            range: Any = Instance(Range1d, default=cast("Any", made))

        facts_of(Mine)
        assert called == []
        mine = Mine()
        assert (called, mine.range is mine.range) == ([1], True)

    def test_validation_stays_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Looking at a class leaves validation as it is: it is on or off for all threads, and one may end meanwhile."""
        seen: list[bool] = []
        class_default = PropertyDescriptor.class_default

        def noting(descriptor: PropertyDescriptor[Any], cls: type[HasProps], **how: bool) -> Any:
            seen.append(Property._should_validate)
            return class_default(descriptor, cls, **how)

        class Mine(HasProps, Local):
            numbers: Any = List(Int, default=[1])

        monkeypatch.setattr(PropertyDescriptor, "class_default", noting)
        with validate(False):
            facts_of(Mine)
        assert seen == [False]

    def test_facts_are_of_one_class(self) -> None:
        """A class that derives from another has its own."""
        assert facts_of(Slider) is not facts_of(Slider.__mro__[1])
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
