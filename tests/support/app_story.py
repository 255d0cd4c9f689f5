"""Tells what apps see of their models, in a process of its own, with Bokeh as it is or with lean models.

    PYTHONPATH=tests python tests/support/app_story.py stock|lean

One line of JSON for each way in which an app may use models, and for each app of the examples and benchmarks.
"""

# As apps are written: with names and attributes that Bokeh makes at run time, and with values that must be refused.
# mypy: disable-error-code="arg-type,assignment,attr-defined,call-arg,index,misc,return-value,type-arg,union-attr"

from __future__ import annotations

import copy
import itertools
import json
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.model_story import begin, shown

ROOT = Path(__file__).parents[2]

APPS = (
    *("examples/apps/dashboard.py", "examples/apps/notes.py", "examples/apps/selection.py", "examples/apps/sliders.py"),
    *("bench/apps/curve.py", "bench/apps/slider.py"),
)


class Log:
    """What was seen, in order."""

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def say(self, *seen: Any) -> None:
        """Note some values."""
        self.steps.append([shown(value) for value in seen])

    @contextmanager
    def in_any_order(self) -> Iterator[None]:
        """What is noted inside: of things that Bokeh has in a set."""
        steps, self.steps = self.steps, []
        try:
            yield
        finally:
            self.steps = steps + sorted(self.steps, key=str)

    def fails(self, act: Callable[[], Any]) -> None:
        """Note how something fails."""
        try:
            self.steps.append(["did not fail", shown(act())])
        except Exception as problem:
            self.steps.append([type(problem).__name__, str(problem)])

    def hear(self, document: Any) -> None:
        """Note every change of a document."""

        def changed(event: Any) -> None:
            columns = getattr(event, "cols", None)
            self.say(
                event.kind, getattr(event, "model", None), getattr(event, "new", None), columns and sorted(columns)
            )

        document.on_change(changed)

    def document(self, document: Any) -> None:
        """Note a whole document."""
        self.steps.append(json.loads(json.dumps(document.to_json(), default=shown)))
        self.steps.append(sorted(model.id for model in document.models))


def defaults_read_in_constructors(log: Log) -> None:
    """Of an app's own classes, before and after Bokeh's constructor."""
    from bokeh.models import ColumnDataSource, Div, Slider

    class Reading(Div):
        def __init__(self, **kwargs: Any) -> None:
            log.fails(lambda: self.tags)
            super().__init__(**kwargs)
            log.say(self.tags, self.text, self.styles, self.stylesheets)
            self.tags.append("made")
            self.styles["color"] = "red"

    class Extending(Slider):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**{"start": 0, "end": 1, "value": 0, **kwargs})
            self.on_change("value", lambda attr, old, new: log.say(attr, old, new))
            self.subscribed_events.add("tap")

    one, other = Reading(text="a"), Reading()
    log.say(one.tags, other.tags, one.tags is other.tags, one.styles is other.styles)
    log.say(one.properties_with_values(include_defaults=False), Reading.__qualified_model__)
    slider = Extending(value=0.5)
    slider.value = 1
    slider.value = 1
    log.say(slider.properties_with_values(include_defaults=False))
    source = ColumnDataSource()
    log.say(source.data, source.selected, source.selection_policy, source.selected is source.selected)
    log.fails(lambda: Div(nonsense=1))
    log.fails(lambda: setattr(Div(), "tag", 1))
    log.fails(lambda: Div(text=1))


def overridden_defaults(log: Log) -> None:
    """With values, functions, models and lists, and in classes that derive from those that do it."""
    from bokeh.core.properties import Any as AnyProperty
    from bokeh.core.properties import (
        Dict,
        Either,
        Enum,
        Instance,
        Int,
        List,
        Nullable,
        Override,
        Required,
        String,
        Tuple,
    )
    from bokeh.core.property.instance import InstanceDefault
    from bokeh.model import Model
    from bokeh.models import LinearAxis, Range1d, Title

    count = itertools.count()
    shared, starts = Range1d(), [1]

    class Base(Model):
        number = Int(default=3)
        numbers = List(Int, default=starts)
        words = Dict(String, List(Int), default={"a": [1]})
        counted = AnyProperty(default=lambda: next(count))
        made = Instance(Title, default=InstanceDefault(Title, text="made"))
        made_by_function = Instance(Range1d, default=lambda: Range1d(start=7))
        either = Either(Enum("auto"), List(Int), default="auto")
        pair = Tuple(Int, Int, default=(1, 2))
        held = Dict(String, Instance(Range1d), default={"shared": shared})
        loose = AnyProperty(default=[1, 2])
        nullable = Nullable(Instance(Range1d))
        required = Required(List(Int))
        other = Instance(Range1d)

    class Derived(Base):
        number = Override(default=4)
        numbers = Override(default=[4, 5])
        nullable = Override(default=lambda: Range1d(end=9))
        either = Override(default=[1])
        loose = Override(default=lambda: {"n": next(count)})

    class Last(Derived):
        more = List(String)

    class Axis(LinearAxis):
        major_label_overrides = Override(default={1: "one"})

    for cls in (Base, Derived, Last):
        one, other = cls(), cls(required=[1], numbers=[1], made=Title(), either="auto")
        for model in (one, other):
            for name in cls.properties(_with_props=True):
                log.fails(lambda name=name, model=model: getattr(model, name))
                log.fails(lambda name=name, model=model: getattr(model, name))
            log.fails(lambda model=model: model.properties_with_values())
            log.fails(lambda model=model: model.properties_with_values(include_defaults=False))
            log.fails(lambda model=model: sorted(found.id for found in model.references()))
            log.fails(model.clone)
        one.numbers.append(9)
        one.held["mine"] = Range1d()
        log.say(one.numbers, other.numbers, one.held, other.held, next(count), Range1d().id)
        log.fails(lambda one=one: sorted(found.id for found in one.references()))
        del one.numbers
        del one.made
        log.say(one.numbers, one.made, one.properties_with_values(include_defaults=False, include_undefined=True))
    log.say(Axis().properties_with_values(include_defaults=False))


def data_models(log: Log) -> None:
    """As apps define them, for values that only JavaScript works with."""
    from bokeh.core.properties import Any as AnyProperty
    from bokeh.core.properties import Bool, Dict, Instance, Int, List, String
    from bokeh.document import Document
    from bokeh.model import DataModel
    from bokeh.models import CustomJS, Range1d

    class Point(DataModel):
        x = Int(default=1)
        names = List(String)
        tree = Dict(String, AnyProperty)
        range = Instance(Range1d, default=lambda: Range1d())

    class Marked(Point):
        mark = Bool(default=True)

    document = Document()
    log.hear(document)
    point, marked = Point(x=2), Marked(names=["a"])
    document.add_root(point)
    document.add_root(marked)
    point.names.append("b")
    point.tree["k"] = [1]
    marked.mark = False
    point.js_on_change("x", CustomJS(code="1", args={"marked": marked}))
    point.js_link("x", marked, "x")
    log.document(document)


def themes(log: Log) -> None:
    """From YAML and of Bokeh's own, replaced while the document lives."""
    from bokeh.document import Document
    from bokeh.models import Div
    from bokeh.plotting import figure
    from bokeh.themes import Theme, built_in_themes

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(
            "attrs:\n  Plot:\n    background_fill_color: '#2F2F2F'\n  Grid:\n    grid_line_dash: [6, 4]\n"
            "  Axis:\n    axis_line_color: !!null\n    major_label_overrides: {'1': one}\n"
            "  Title:\n    text_color: white\n  UIElement:\n    css_classes: [themed]\n"
            "line_defaults:\n  line_width: 7\n"
        )
        file.flush()
        from_yaml = Theme(filename=file.name)
    document = Document(theme=from_yaml)
    log.hear(document)
    plot = figure(title="t", width=300)
    plot.line([1, 2], [3, 4])
    document.add_root(plot)
    document.add_root(Div(css_classes=["mine"]))
    log.document(document)
    log.say(plot.background_fill_color, plot.grid[0].grid_line_dash, plot.css_classes, plot.axis[0].axis_line_color)
    plot.css_classes.append("more")
    plot.xaxis[0].major_label_overrides["2"] = "two"
    plot.background_fill_color = "red"
    for theme in (built_in_themes["dark_minimal"], from_yaml, Theme(json={"attrs": {"Title": {"text": "themed"}}})):
        with log.in_any_order():
            document.theme = theme
        log.say(plot.css_classes, plot.title.text, plot.xaxis[0].major_label_overrides)
        log.document(document)
    document.remove_root(plot)
    log.say(plot.css_classes, plot.title.text, plot.themed_values())
    _themes_with_models(log)


def _themes_with_models(log: Log) -> None:
    """What a theme gives a model may refer to models, where the default does not."""
    from bokeh.document import Document
    from bokeh.models import Div, InlineStyleSheet, Menu
    from bokeh.themes import Theme

    div = Div()
    themes = [
        Theme(json={"attrs": {"Div": {"stylesheets": [InlineStyleSheet(css=css)], "context_menu": Menu()}}})
        for css in ("a", "b")
    ]
    for theme in themes:
        theme.apply_to_model(div)
        log.say(sorted(model.id for model in div.references()), div.stylesheets, div.context_menu)
    document = Document(theme=themes[-1])
    document.add_root(div)
    log.document(document)
    document.theme = Theme(json={})
    log.say(sorted(model.id for model in div.references()), div.stylesheets)
    log.document(document)


def changes_in_place(log: Log) -> None:
    """Of defaults and of lists that several models share."""
    from bokeh.document import Document
    from bokeh.models import ColumnDataSource, CustomJS, Div, MultiSelect, Row

    document = Document()
    log.hear(document)
    select, div = MultiSelect(options=["a"]), Div()
    row = Row(children=[select, div])
    document.add_root(row)
    for model in (select, div, row):
        for name in ("tags", "styles", "css_classes", "subscribed_events"):
            model.on_change(name, lambda attr, old, new: log.say(attr, old, new))
    div.tags.append(1)
    div.tags += [2]
    div.styles["color"] = "red"
    div.styles.update(width="1px")
    div.css_classes.extend(["a", "b"])
    div.subscribed_events.add("tap")
    select.tags = div.tags
    log.say(select.tags is div.tags)
    with log.in_any_order():
        select.tags.append(3)
    div.tags = [7]
    select.tags.append(4)
    log.say(select.tags, div.tags)
    del select.tags
    log.say(select.tags)
    select.tags.insert(0, "again")
    row.children.append(Div(text="new"))
    row.children[0] = Div(text="other")
    log.document(document)
    row.js_on_change("children", CustomJS(code="1"))
    row.js_on_event("tap", CustomJS(code="2"))
    select.on_event("tap", lambda: None)
    log.document(document)
    source = ColumnDataSource({"x": [1, 2], "y": [3, 4]})
    document.add_root(source)
    source.data["x"] = [5, 6]
    source.data.update(y=[7, 8])
    source.stream({"x": [1], "y": [2]}, rollover=2)
    source.patch({"x": [(0, 9)]})
    source.data = dict(source.data)
    source.data = {"x": [1], "y": [1]}
    source.selected.indices = [0]
    source.selected.indices.append(1)
    log.fails(lambda: setattr(source, "data", ColumnDataSource().data))
    log.fails(lambda: setattr(source, "data", {"x": 1}))
    log.document(document)


def columns(log: Log) -> None:
    """Of all kinds."""
    import numpy as np
    import pandas as pd
    from bokeh.models import ColumnDataSource

    values: list[Any] = [
        *([1, 2], (1, 2), range(2), "ab", {1, 2}, {"a": 1}, None, 1, [], [None, object()], [[1], [2]], iter([1])),
        *(np.array([1, 2]), np.array(1), np.array([[1, 2], [3, 4]]), np.array(["a", None], dtype=object)),
        *(pd.Series([1, 2]), pd.Index([1]), pd.Categorical(["a"]), pd.date_range("2024", periods=2), np.zeros(0)),
        *(pd.Series([1, pd.NA]), bytearray(b"ab"), memoryview(b"ab"), np.array([float("nan")])),
    ]
    for one in values:
        source = ColumnDataSource()
        log.fails(lambda source=source, one=one: setattr(source, "data", {"x": one}))
        log.fails(lambda source=source, one=one: source.data.update(y=one))
        log.say(source.data, source.column_names)
        for other in values[12:]:
            prop = source.lookup("data").property
            log.fails(lambda prop=prop, one=one, other=other: prop.matches(one, other))
            log.fails(lambda prop=prop, one=one, other=other: prop.matches({"a": one}, {"a": other}))
    log.fails(lambda: ColumnDataSource(pd.DataFrame({"a": [1, 2]})).data)


def mappings(log: Log) -> None:
    """Of keys and values of any kind, that fit and do not, on their own and as one of several kinds."""
    import numpy as np
    from bokeh.core.properties import Any as Anything
    from bokeh.core.properties import ColumnData, Dict, Either, Int, Nullable, Seq, String
    from bokeh.model import Model

    class Shout(String):
        def validate(self, value: Any, detail: bool = True) -> None:
            super().validate(value, detail)
            log.say("asked for", value)
            if not value.isupper():
                raise ValueError("louder" if detail else "")

    class Row(Seq):
        def validate(self, value: Any, detail: bool = True) -> None:
            super().validate(value, detail)
            log.say("row", value)

    class Name(str):
        __slots__ = ()

    class Maps(Model):
        __view_model__ = "Maps"
        ints = Dict(String, Int)
        rows = Dict(String, Seq(Anything))
        lists = Dict(Int, Seq(Int))
        loud = Dict(Shout, Row(Anything))
        columns = ColumnData(String, Seq(Anything))
        perhaps = Nullable(Dict(String, Seq(Anything)))
        either = Either(Int, Dict(String, Int), Dict(Int, String))

    keys: list[Any] = ["a", "A", Name("b"), 1, True, None, ("a",)]
    values: list[Any] = [1, True, None, "ab", [1], (1, "a"), np.arange(2), np.array(1), {1}, {"a": 1}, range(2), [[1]]]
    maps = Maps()
    for name in ("ints", "rows", "lists", "loud", "columns", "perhaps", "either"):
        for key in keys:
            for value in values:
                log.fails(lambda name=name, key=key, value=value: setattr(maps, name, {key: value}))
        for whole in ({}, {"a": [1], 2: [2]}, {"a": 1, "b": "c"}, [("a", 1)], None):
            log.fails(lambda name=name, whole=whole: setattr(maps, name, whole))
        log.fails(lambda name=name: getattr(maps, name))


def values_as_they_are_set(log: Log) -> None:
    """Set to what they are, to what equals it, and to what does not fit."""
    import numpy as np
    from bokeh.models import Button, Circle, DataTable, DatePicker, RangeSlider, Slider, TableColumn, TextInput

    candidates: list[Any] = [
        *(
            0,
            0.0,
            1,
            True,
            False,
            None,
            "",
            "a",
            float("nan"),
            np.float64(2),
            np.int64(3),
            np.bool_(True),
            1e400,
            10**30,
        ),
        *((0, 1), [0, 1], (0.5, 2), [], {}, "2024-01-02", b"x"),
    ]
    models = [Slider(start=0, end=1, value=0), RangeSlider(start=0, end=1, value=(0, 1)), TextInput(), Button()]
    models += [Circle(), DataTable(), TableColumn(field="a"), DatePicker()]
    for model in models:
        for name in ("value", "start", "label", "disabled", "x", "radius", "columns", "title", "index_position"):
            if name not in model.properties():
                continue
            model.on_change(name, lambda attr, old, new: log.say(attr, old, new))
            for value in candidates:
                log.fails(lambda model=model, name=name, value=value: setattr(model, name, value))
                log.fails(lambda model=model, name=name: getattr(model, name))
                log.fails(lambda model=model, name=name, value=value: model.set_from_json(name, value))
        log.fails(lambda model=model: setattr(model, "id", "x"))
        log.fails(lambda model=model: model.properties_with_values(include_defaults=False))


def doubles(log: Log) -> None:
    """Copies, clones, pickles, and models read from JSON."""
    from bokeh.document import Document
    from bokeh.models import ColumnDataSource, Div, Range1d, Row
    from bokeh.plotting import figure

    div = Div(text="a")
    div.on_change("tags", lambda attr, old, new: log.say("original", attr, old, new))
    double = copy.copy(div)
    double.tags.append("first")
    log.say(div.tags, double.tags is div.tags)
    clone = div.clone(text="b")
    clone.tags.append("clone")
    log.say(div.tags, clone.tags, clone.text)
    pickled = pickle.loads(pickle.dumps(Range1d(start=1)))
    pickled.tags.append(2)
    log.say(pickled.start, pickled.end, pickled.tags, pickled.id)
    deep = copy.deepcopy(Range1d(start=1))
    deep.tags.append(2)
    log.say(deep.start, deep.tags)
    for container in (copy.copy(div.tags), copy.deepcopy(ColumnDataSource({"x": [1]}).data), list(div.tags)):
        log.say(container)
    plot = figure(width=300, title="t")
    plot.scatter([1, 2], [3, 4], name="dots")
    document = Document()
    document.add_root(Row(children=[plot]))
    log.document(document)
    again = Document.from_json(document.to_json())
    log.hear(again)
    log.say(len(list(again.models)), again.get_model_by_name("dots"))
    again.roots[0].children[0].title.text = "u"
    again.apply_json_patch({"events": [{"kind": "ModelChanged", "model": plot.ref, "attr": "tags", "new": [1]}]})
    log.document(again)
    again.clear()
    log.document(again)


def found_models(log: Log) -> None:
    """By names, selectors and checks."""
    from bokeh.core.validation import check_integrity
    from bokeh.document import Document, document
    from bokeh.models import GlyphRenderer, GridBox, Plot, Row, Title
    from bokeh.plotting import figure

    plot = figure(title="t", name="plot")
    plot.line([1, 2], [1, 2], name="line", legend_label="l")
    held = Document()
    held.add_root(Row(children=[plot, Row()]))
    log.say(held.get_model_by_name("line"), sorted(model.id for model in held.select({"type": GlyphRenderer})))
    plot.name = "other"
    log.say(held.get_model_by_name("plot"), held.get_model_by_name("other"))
    plot.set_select(Title, {"text": "set"})
    log.say(plot.title.text, plot.select_one({"name": "line"}), plot.legend[0].items)
    del check_integrity
    models: list[Any] = [Plot(), Row(), GridBox(), plot]
    log.say(repr(document.check_integrity(models)))
    held.validate()
    log.document(held)


def classes_of_their_own_ways(log: Log) -> None:
    """That change what Bokeh's property system does."""
    from bokeh.core.has_props import HasProps, Local
    from bokeh.core.properties import Int, List, String
    from bokeh.core.property.descriptors import PropertyDescriptor
    from bokeh.model import Model
    from bokeh.models import Div

    class Descriptor(PropertyDescriptor[Any]):
        def get_value(self, obj: Any) -> Any:
            log.say("asked", self.name)
            return super().get_value(obj)

    class Property(List):
        def make_descriptors(self, name: str) -> list[Any]:
            return [Descriptor(name, self)]

    class Themed(Int):
        def themed_default(self, *args: Any, **kwargs: Any) -> Any:
            log.say("default")
            return super().themed_default(*args, **kwargs)

    class Own(Model):
        mine = Property(Int)
        themed = Themed(default=2)

        def trigger(self, attr: str, old: Any, new: Any, hint: Any = None, setter: Any = None) -> None:
            log.say("triggered", attr, old, new)
            super().trigger(attr, old, new, hint, setter)

    class Values(Div):
        def themed_values(self) -> dict[str, Any] | None:
            return {"text": "themed", "tags": ["themed"]}

    class Query(Div):
        def properties_with_values(self, **kwargs: Any) -> dict[str, Any]:
            return {**super().properties_with_values(**kwargs), "text": "queried"}

    class Settings(HasProps, Local):
        numbers = List(Int, default=[1])
        text = String(default="x")

    for cls in (Own, Values, Query):
        model = cls(tags=["a"])
        model.tags.append("b")
        if cls is Own:
            model.mine.append(1)
            model.themed = 3
        log.say(model.properties_with_values(include_defaults=False), model.tags)
        log.say(model.properties_with_values(), sorted(found.id for found in model.references()))
        log.fails(lambda model=model: model.clone().tags)
    settings = Settings(numbers=[2])
    settings.numbers.append(3)
    other = Settings()
    other.numbers.append(4)
    log.say(settings.properties_with_values(), other.properties_with_values(include_defaults=False), Settings().numbers)


def properties_of_their_own_ways(log: Log) -> None:
    """Whose values are made anew, or refused, at each reading; also inside of others, and while a model is made."""
    from bokeh.core.properties import Int, List, Nullable, String
    from bokeh.model import Model

    count = itertools.count()
    allowed = [1, 2]

    class Numbered(String):
        def transform(self, value: Any) -> str:
            return f"{value} {next(count)}"

    class Wrapped(Int):
        def wrap(self, value: Any) -> Any:
            return (value, next(count))

    class Allowed(Int):
        def validate(self, value: Any, detail: bool = True) -> None:
            super().validate(value, detail)
            if value not in allowed:
                raise ValueError("not allowed" if detail else "")

    class Broken(Int):
        def transform(self, value: Any) -> int:
            raise TypeError("cannot be read")

    class Own(Model):
        numbered = Numbered(default="a")
        wrapped = Wrapped(default=1)
        allowed = Allowed(default=1)
        perhaps = Nullable(Allowed, default=2)
        several = List(Allowed, default=[1])
        broken = Broken(default=1)

    for _ in range(2):
        model = Own()
        for _ in range(2):
            for name in ("numbered", "wrapped", "allowed", "perhaps", "several", "broken"):
                log.fails(lambda name=name, model=model: getattr(model, name))
            log.fails(lambda model=model: model.properties_with_values(include_defaults=False))
            allowed.reverse()
            allowed.pop()
        allowed[:] = [1, 2]


def classes_changed_later(log: Log) -> None:
    """After models of them were made, by an app that replaces methods and defaults."""
    from bokeh.core.properties import Int, List
    from bokeh.model import Model

    class Base(Model):
        number = Int(default=1)
        numbers = List(Int, default=[1])

    class Derived(Base):
        pass

    def trigger(self: Any, attr: str, old: Any, new: Any, hint: Any = None, setter: Any = None) -> None:
        log.say("triggered", attr, old, new)

    for cls in (Base, Derived):
        cls().numbers.append(2)
        log.say(cls().number, cls().properties_with_values(include_defaults=False))
    Base.trigger = trigger
    for cls in (Base, Derived):
        model = cls()
        model.number = 3
        model.numbers.append(4)
    Base.__overridden_defaults__ = {"number": 5, "numbers": [6]}
    for cls in (Base, Derived):
        log.say(cls().number, cls().numbers, cls().properties_with_values())
    Base.themed_values = lambda self: {"number": 7}
    for cls in (Base, Derived):
        log.say(cls().number, cls().numbers, cls().properties_with_values(include_defaults=False))


def half_made(log: Log) -> None:
    """Of which a constructor failed, or was not called yet."""
    from bokeh.core.properties import Instance
    from bokeh.models import Div, Range1d

    made = []

    class Early(Div):
        range = Instance(Range1d, default=lambda: Range1d())

        def __init__(self, **values: Any) -> None:
            made.append(self)
            log.fails(lambda: sorted(model.id for model in self.references()))
            log.fails(lambda: self.text)
            super().__init__(**values)

    for values in ({"text": "a", "tags": [1]}, {"tags": [1], "width": "wide", "styles": {}}, {"tags": [2], "tag": 1}):
        log.fails(lambda values=values: Early(**values))
    for model in made:
        model.tags.append(3)
        log.say(model.tags, model.text, model._initialized, model.range)
        log.say(model.properties_with_values(include_defaults=False), sorted(found.id for found in model.references()))


def validation_off(log: Log) -> None:
    """Values that do not fit, and defaults that are converted only where they are validated."""
    from bokeh.core.properties import Int, List, String
    from bokeh.core.property.validation import validate
    from bokeh.model import Model
    from bokeh.models import Div

    class Converting(Model):
        number = Int(default="5").accepts(String, int)
        numbers = List(Int, default="12").accepts(String, lambda text: [*map(int, text)])

    with validate(False):
        log.fails(lambda: Converting().number)
        log.fails(lambda: Converting().numbers)
        log.fails(lambda: Div(text=1, tags="nothing").properties_with_values(include_defaults=False))
    log.fails(lambda: Converting().number)
    log.fails(lambda: Converting().numbers)
    log.fails(lambda: Converting().properties_with_values(include_defaults=False))


def whole_apps(log: Log) -> None:
    """As the first page has them."""
    from bokeh.command.util import build_single_handler_application

    from aperture.document.ids import IdSequence

    for app in APPS:
        application = build_single_handler_application(str(ROOT / app))
        for number in range(2):
            with IdSequence(f"{app} {number}").active():
                document = application.create_document()
            log.say(app, len(list(document.models)))
            if "dashboard" in app or "weather" in app:  # of random numbers, or of the time
                log.say(sorted((type(model).__name__, model.id) for model in document.models))
            else:
                log.document(document)


STORIES = (
    *(defaults_read_in_constructors, overridden_defaults, data_models, themes, changes_in_place, columns, mappings),
    *(values_as_they_are_set, doubles, found_models, classes_of_their_own_ways, properties_of_their_own_ways),
    *(classes_changed_later, half_made, validation_off, whole_apps),
)


def main() -> None:
    """Tell all stories."""
    from aperture.document.ids import IdSequence

    begin(sys.argv[1])
    for story in STORIES:
        log = Log()
        with IdSequence(story.__name__).active():
            story(log)
        print(json.dumps({"name": story.__name__, "seed": 0, "steps": log.steps}))


if __name__ == "__main__":
    main()
