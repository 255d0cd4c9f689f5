"""Tells what happens to models of every class, in a process of its own, with Bokeh as it is or with lean models.

    python tests/support/model_story.py stock|lean|compare SEED [SEED …]

One line of JSON for each class and seed: what was done to models of that class, chosen at random, and what was seen of
it. Both ways of having models must tell the same, word by word; `compare` runs both and says where they differ.
"""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import os
import pickle
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DEEPCOPY, PICKLE = "deepcopy", "pickle"
IMPOSSIBLE = "impossible"
"""What Bokeh says of the doubles of most models: they end in a function, or in a list that is changed while it is made.
With fewer lists there are fewer such models, and that is no difference that matters."""

MODELS = Path(__file__)
APPS = MODELS.with_name("app_story.py")

STEPS = 20
"""Of one story."""


def differences(program: Path, *seeds: int) -> list[str]:
    """Have a program tell its stories in two processes; a text for each that is not the same."""
    path = os.pathsep.join(filter(None, [str(MODELS.parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path}
    running = [
        subprocess.Popen([sys.executable, program, way, *map(str, seeds)], env=environment, stdout=subprocess.PIPE)
        for way in ("stock", "lean")
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise AssertionError(f"{program.name} failed: {[process.returncode for process in running]}")
    stock, lean = ([json.loads(line) for line in output.decode().splitlines()] for output in outputs)
    if not stock or len(stock) != len(lean):
        raise AssertionError(f"{len(stock)} stories of stock models, {len(lean)} of lean ones")
    return [difference for pair in zip(stock, lean, strict=True) for difference in _differences(*pair)]


def _differences(stock: dict[str, Any], lean: dict[str, Any]) -> Iterator[str]:
    """The first step that differs, if there is one."""
    for place, (one, other) in enumerate(itertools.zip_longest(stock["steps"], lean["steps"])):
        if one != other and not (one is not None and one[0] in (DEEPCOPY, PICKLE) and one[1] == IMPOSSIBLE):
            where = f"{stock['name']} (seed {stock['seed']}), step {place}"
            yield f"{where}:\n    stock: {one}\n    lean:  {other}"
            return


def begin(way: str) -> None:
    """Choose how this process has its models; before the first one is made."""
    from aperture.document import ids

    warnings.simplefilter("ignore")
    ids.install()
    ids._outside = ids.IdSequence("outside")  # of this process, and random
    if way == "lean":
        from aperture.worker.document import lean

        lean.install()


def shown(value: Any, depth: int = 4) -> Any:
    """A value as text that says all that an app can see of it; models by their ids."""
    from bokeh.core.has_props import HasProps

    kind = type(value).__name__
    if depth == 0:
        return kind
    if isinstance(value, HasProps):
        return f"{kind}({getattr(value, 'id', '')})"
    if isinstance(value, list | tuple):
        return [kind, *[shown(item, depth - 1) for item in value]]
    if isinstance(value, set | frozenset):
        return [kind, *sorted(str(shown(item, depth - 1)) for item in value)]
    if isinstance(value, dict):
        return [kind, *[[shown(key, depth - 1), shown(item, depth - 1)] for key, item in value.items()]]
    return f"{kind}:{_without_addresses(repr(value))[:300]}"


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", text)


class Story:
    """What happens to models of one class.

    Args:
        cls: of the models.
        seed: of the choices.
    """

    def __init__(self, cls: type[Any], seed: int) -> None:
        self.cls = cls
        self.seed = seed
        self.choice = random.Random(f"{cls.__qualified_model__} {seed}")
        self.names = list(cls.properties(_with_props=True))
        self.models: list[Any] = []
        self.record: list[Any] = []
        self.heard: list[Any] = []
        self.values = _values()
        self.fitting: dict[str, list[Any]] = {}
        self.document: Any = None
        self.unordered = False
        self.given: dict[str, Any] = {}

    def tell(self) -> list[Any]:
        """Everything that was done and seen."""
        self._do("make", self._make)
        self._do("make bare", self._make_bare)
        steps = self._steps()
        for _ in range(STEPS):
            if not self.models:
                break
            name, step = self.choice.choice(steps)
            self._do(name, step)
            if self.unordered:
                return self.record
        for name, step in steps:
            if self.models and not self.unordered and name != "destroy":
                self._do(name, step)
        self._do(DEEPCOPY, self._deepcopy)
        self._do(PICKLE, self._pickle)
        return self.record

    def _do(self, name: str, step: Callable[[], Any]) -> None:
        try:
            seen = step()
        except RecursionError:
            seen = "RecursionError"
        except Exception as problem:
            seen = f"{type(problem).__name__}: {_without_addresses(str(problem))[:300]}"
            # It has done it for some of a document's models, and those are in no order.
            self.unordered = "document" in name
        # In no order: a document has its models in sets.
        self.record.append([name, seen, sorted(self.heard, key=str), self.choice.getstate()[1][-1]])
        self.heard.clear()

    def _steps(self) -> list[tuple[str, Callable[[], Any]]]:
        return [
            *(("read", self._read),) * 3,
            *(("set", self._set),) * 4,
            *(("change in place", self._change_in_place),) * 5,
            ("unset", self._unset),
            ("set from JSON", self._set_from_json),
            ("share", self._share),
            ("listen", self._listen),
            ("theme", self._theme),
            ("no theme", self._no_theme),
            ("wrong theme", self._theme_wrongly),
            ("document", self._into_document),
            ("document theme", self._theme_document),
            ("out of document", self._out_of_document),
            ("values", self._values),
            ("set values", self._set_values),
            ("set values and undefined", self._set_values_and_undefined),
            ("JSON", self._json),
            ("encode", self._encode),
            ("references", self._references),
            ("integrity", self._integrity),
            ("clone", self._clone),
            ("copy", self._copy),
            ("equal", self._equal),
            ("all", self._read_all),
            ("make", self._make),
            ("destroy", self._destroy),
        ]

    # What can be done

    def _make(self) -> Any:
        from bokeh.core.property.singletons import Intrinsic, Undefined

        given = {name: self._value(name) for name in self._some(self.names, 4)}
        for name in self._some(self.names, 2):
            given[name] = self.choice.choice([Undefined, Intrinsic])
        model = self.cls(**given)
        self.models.append(model)
        self.given = given
        return [shown(given), shown(model)]

    def _make_bare(self) -> Any:
        self.models.append(self.cls())
        return shown(self.models[-1])

    def _read(self) -> Any:
        name = self._name()
        return [name, shown(getattr(self._model(), name))]

    def _read_all(self, model: Any = None) -> Any:
        model = model or self._model()
        seen = []
        for name in self.names:
            try:
                seen.append([name, shown(getattr(model, name))])
            except Exception as problem:
                seen.append([name, type(problem).__name__])
        return seen

    def _set(self) -> Any:
        model, name = self._model(), self._name()
        value = self._value(name)
        self.record.append(["setting", name, shown(value)])
        setattr(model, name, value)
        return [name, shown(getattr(model, name))]

    def _set_from_json(self) -> Any:
        model, name = self._model(), self._name()
        value = self._value(name)
        self.record.append(["setting from JSON", name, shown(value)])
        model.set_from_json(name, value)
        return [name, shown(getattr(model, name))]

    def _unset(self) -> Any:
        model, name = self._model(), self._name()
        delattr(model, name)
        return [name, shown(model.properties_with_values(include_defaults=False, include_undefined=True))]

    def _change_in_place(self) -> Any:
        model = self._model()
        names = [name for name in self.names if self._holds_container(name)]
        name = self.choice.choice(names or self.names)
        container = getattr(model, name)
        key = self.choice.choice(["a", "b"])
        self.record.append(["changing", name, shown(container)])
        if len(getattr(container, "_owners", ())) > 1:
            _empty(container)  # any other change may be an error of one owner, who is asked in no order
        elif isinstance(container, list):
            self._one_of(
                lambda: container.append(self._any()),
                lambda: container.extend([self._any()]),
                lambda: container.__setitem__(slice(0, 1), [self._any()]),
                lambda: container.pop(),
                lambda: container.__iadd__([key]),
            )
        elif isinstance(container, dict):
            self._one_of(
                lambda: container.update({key: self._any()}),
                lambda: container.__setitem__(key, self._any()),
                lambda: container.setdefault(key, [1]),
                lambda: container.pop(key),
                lambda: container.clear(),
            )
        elif isinstance(container, set):
            self._one_of(lambda: container.add(key), lambda: container.discard(key))
        return [name, shown(container), shown(getattr(model, name)), getattr(model, name) is container]

    def _share(self) -> Any:
        """One container of two models, and of two properties."""
        one, other = self._model(), self._model()
        name, second = self._name(), self._name()
        value = getattr(one, name)
        setattr(other, second, value)
        return [name, second, getattr(other, second) is value]

    def _listen(self) -> Any:
        model = self._model()
        names = self._some(self.names, 5)
        heard = self.heard
        number = self.models.index(model)

        def callback(attr: str, old: Any, new: Any) -> None:
            heard.append(["heard", number, attr, shown(old), shown(new), old is new])

        for name in names:
            model.on_change(name, callback)
        return names

    def _theme(self) -> Any:
        values = self._themed_values()
        model = self._model()
        model.apply_theme(values)
        return [[name, shown(value), shown(getattr(model, name))] for name, value in values.items()]

    def _theme_wrongly(self) -> Any:
        """A model by itself, for its errors would come wherever the others are read."""
        model = self.cls(**self.given)
        values = {name: self._value(name) for name in self._some(self.names, 4)}
        model.apply_theme(values)
        seen = [shown(values)]
        for step in (self._read_all, self._set_values_and_undefined, self._references, self._json, self._clone):
            try:
                seen.append(step(model))
            except Exception as problem:
                seen.append(f"{type(problem).__name__}: {_without_addresses(str(problem))[:300]}")
        return seen

    def _themed_values(self) -> dict[str, Any]:
        """Without models: one that takes another's place is or is not themed before it goes, in no order."""
        from bokeh.model import collect_models

        named = {name: self._value(name) for name in self._some(self.names, 3)}
        return {
            name: value
            for name, value in named.items()
            if self.cls.lookup(name).property.is_valid(value) and not collect_models(value)
        }

    def _no_theme(self) -> Any:
        model = self._model()
        model.unapply_theme()
        return shown(model.themed_values())

    def _into_document(self) -> Any:
        model = self._model()
        if self.document is None:
            self.document = self._new_document()
        self.document.add_root(model)
        return [sorted(model.id for model in self.document.models), json.dumps(self.document.to_json(), default=shown)]

    def _new_document(self) -> Any:
        from bokeh.document import Document

        heard = self.heard

        def changed(event: Any) -> None:
            attr, new = getattr(event, "attr", None), getattr(event, "new", None)
            model, columns = getattr(event, "model", None), getattr(event, "cols", None)
            heard.append(["event", event.kind, shown(model), attr, shown(new), shown(columns and sorted(columns))])

        document = Document()
        document.on_change(changed)
        return document

    def _theme_document(self) -> Any:
        from bokeh.themes import Theme

        document = self._model().document
        if document is None:
            return None
        values = self._themed_values()
        document.theme = Theme(json={"attrs": {self.cls.__name__: values, "Model": {"tags": ["themed"]}}})
        return json.dumps(document.to_json(), default=shown)

    def _out_of_document(self) -> Any:
        model = self._model()
        document = model.document
        if document is None:
            return None
        document.remove_root(model)
        return [shown(model.document), len(list(document.models))]

    def _values(self) -> Any:
        return shown(self._model().properties_with_values())

    def _set_values(self) -> Any:
        return shown(self._model().properties_with_values(include_defaults=False))

    def _set_values_and_undefined(self, model: Any = None) -> Any:
        return shown((model or self._model()).properties_with_values(include_defaults=False, include_undefined=True))

    def _json(self, model: Any = None) -> Any:
        from bokeh.core.serialization import Serializer

        return json.dumps(Serializer().serialize(model or self._model()).content, default=shown)

    def _encode(self) -> Any:
        """As our own encoder has it, twice: what the first makes, the second may find."""
        from aperture.protocol.attributes import set_attributes

        model = self._model()
        seen = []
        for _ in range(2):
            attributes = set_attributes(model)
            seen.append("left to Bokeh" if attributes is None else shown(attributes))
        return seen

    def _references(self, model: Any = None) -> Any:
        from bokeh.model import collect_models

        return shown(collect_models(model or self._model()))

    def _integrity(self) -> Any:
        from bokeh.document import document

        issues = document.check_integrity([self._model()])  # type: ignore[attr-defined]
        return _without_addresses(repr(issues))

    def _clone(self, model: Any = None) -> Any:
        clone = (model or self._model()).clone()
        self.models.append(clone)
        return shown(clone)

    def _copy(self) -> Any:
        """A copy that is read first; of a model by itself, as the two have one id."""
        original = self.cls(**self.given)
        double = copy.copy(original)
        names = list(self._containers(double))
        heard = self.heard

        def callback(attr: str, old: Any, new: Any) -> None:
            heard.append([attr, shown(old), shown(new)])

        for name in names:
            original.on_change(name, callback)
        seen = []
        for name in names:
            container = getattr(double, name)
            _empty(container)
            if isinstance(container, list) and self.cls.lookup(name).property.is_valid([None]):
                container.append(None)
            seen.append([name, shown(container), getattr(original, name) is container])
        return [shown(double), seen, shown(original.properties_with_values(include_undefined=True))]

    def _deepcopy(self) -> Any:
        return self._aside(copy.deepcopy)

    def _pickle(self) -> Any:
        return self._aside(lambda model: pickle.loads(pickle.dumps(model)))

    def _aside(self, double: Callable[[Any], Any]) -> Any:
        """A double that nothing else is done with: of most models that were looked at, Bokeh can make none."""
        from aperture.document.ids import IdSequence

        with IdSequence("aside").active():
            try:
                made = double(self.cls(**self.given))
            except Exception:
                return IMPOSSIBLE
            return shown(made.properties_with_values(include_defaults=False, include_undefined=True))

    def _equal(self) -> Any:
        return self._model().equals(self._model())

    def _destroy(self) -> Any:
        model = self.models.pop()
        model.destroy()
        return shown(model.properties_with_values(include_defaults=False, include_undefined=True))

    # Choices

    def _one_of(self, *acts: Callable[[], object]) -> None:
        self.choice.choice(acts)()

    def _model(self) -> Any:
        return self.choice.choice(self.models)

    def _name(self) -> str:
        name: str = self.choice.choice(self.names)
        return name

    def _some(self, names: list[str], most: int) -> list[str]:
        return self.choice.sample(names, min(len(names), self.choice.randint(0, most)))

    def _holds_container(self, name: str) -> bool:
        prop = self.cls.lookup(name).property
        empty: tuple[Any, ...] = ([], {}, set())
        return any(prop.is_valid(value) for value in empty)

    def _containers(self, model: Any) -> Iterator[str]:
        for name in self.names:
            if self._holds_container(name) and isinstance(getattr(model, name, None), list | dict | set):
                yield name

    def _any(self) -> Any:
        return _new(self.choice.choice(self.values))

    def _value(self, name: str) -> Any:
        """One that the property takes, mostly."""
        prop = self.cls.lookup(name).property
        made = self._made_for(prop)
        if made is not None and self.choice.random() < 0.7:
            return made
        if name not in self.fitting:
            self.fitting[name] = [value for value in self.values if prop.is_valid(_new(value))]
        fitting = self.fitting[name]
        fits = fitting and self.choice.random() < 0.9
        return _new(self.choice.choice(fitting if fits else self.values))

    def _made_for(self, prop: Any) -> Any:
        """A new model for a property that takes models."""
        from bokeh.model import Model

        while hasattr(prop, "type_params") and len(prop.type_params) == 1:
            prop = prop.type_params[0]
        kind = getattr(prop, "_instance_type", None)
        if kind is None:
            return None
        try:
            kind = prop.instance_type
            return kind() if issubclass(kind, Model) else None
        except Exception:
            return None


def _empty(container: Any) -> None:
    if isinstance(container, list):
        del container[:]
    elif isinstance(container, dict):
        container.clear()
    else:
        container.difference_update(set(container))


def _values() -> list[Any]:
    """What a value can be; models and what holds them as functions that make them."""
    import numpy as np
    from bokeh.models import CustomJS, Range1d

    return [
        *(None, True, False, 0, 1, 7, -3, 0.0, 0.5, 2.5, float("nan"), float("inf")),
        *("", "auto", "a", "red", "#102030", "10px", "solid", "center", "left", "stretch_both", "x"),
        *([], [1, 2], [0.5], ["a"], ["a", "b"], [[1], [2]], [None], (), (1, 2), (0.5, 1.5), ("a", 1)),
        *({}, {"a": 1}, {"a": [1, 2]}, {"a": [1, 2], "b": ["x", "y"]}, {"field": "a"}, {"value": 3}, {"a": {"b": []}}),
        *(set(), {"a"}, {"a", "b"}),
        *(np.array([1.0, 2.0]), {"a": np.array([1, 2]), "b": np.array([0.5, float("nan")])}),
        *(datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3), datetime.timedelta(seconds=2)),
        *(_Made(lambda: Range1d(start=1, end=2)), _Made(lambda: [Range1d()]), _Made(lambda: {"a": Range1d()})),
        *(_Made(lambda: CustomJS(code="1")), _Made(lambda: {"a": [CustomJS(code="2")]})),
        _Made(object),
    ]


class _Made:
    """A value that is made anew for each use."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def _new(value: Any) -> Any:
    return value.make() if isinstance(value, _Made) else copy.deepcopy(value)


def model_classes() -> list[type[Any]]:
    """Every class of models that Bokeh has, and Panel where it is installed, but for those that nothing can be."""
    import bokeh.models
    import bokeh.plotting
    from bokeh.core.has_props import is_abstract
    from bokeh.model import Model

    del bokeh
    try:
        import panel.models
        import panel.models.ace
        import panel.models.echarts
        import panel.models.perspective
        import panel.models.plotly
        import panel.models.tabulator
        import panel.models.vega

        del panel
    except ImportError:
        pass
    classes = {cls for cls in Model.model_class_reverse_map.values() if issubclass(cls, Model) and not is_abstract(cls)}
    return sorted(classes, key=lambda cls: (cls.__qualified_model__, cls.__module__))


def main() -> None:
    """Tell the stories of all classes."""
    from aperture.document.ids import IdSequence

    way, *seeds = sys.argv[1:]
    if way == "compare":
        sys.exit("\n".join(differences(MODELS, *map(int, seeds))) or None)
    begin(way)
    for cls in model_classes():
        for seed in seeds:
            with IdSequence(f"{cls.__name__} {seed}").active():
                steps = Story(cls, int(seed)).tell()
            print(json.dumps({"name": cls.__qualified_model__, "seed": int(seed), "steps": steps}))


if __name__ == "__main__":
    main()
