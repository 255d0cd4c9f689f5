"""A year of weather at three places, as a directory app.

What a directory adds to a script: `theme.yaml` styles every plot, `templates/index.html` lays out the page and asks
for the roots by name, `static/` is served beside the app, and `app_hooks.py` runs around sessions. The weather is made
up, from a seed, so there is nothing to download. `?place=Reykjavik` opens the page on that place.
"""

from datetime import date, timedelta

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Div, HoverTool, Select, Slider
from bokeh.plotting import figure

DAYS = 365
START = date(2025, 1, 1)
# mean temperature, half its yearly swing, half its daily swing, day of the hottest day, millimetres on a wet day
PLACES = {
    "Lisbon": (17.0, 6.5, 4.5, 220, 9.0),
    "Reykjavik": (5.0, 6.0, 2.5, 205, 5.0),
    "Almaty": (10.0, 15.0, 6.0, 200, 6.5),
}


def year_of(place: str) -> dict[str, np.ndarray]:
    """Daily low, high and mean in degrees Celsius, and rain in mm."""
    mean, yearly, daily, hottest, wet = PLACES[place]
    rng = np.random.default_rng(sum(place.encode()))
    day = np.arange(DAYS)
    drift = np.convolve(rng.normal(0, 3.2, DAYS + 6), np.ones(7) / 7, "valid")
    middle = mean + yearly * np.cos((day - hottest) * 2 * np.pi / DAYS) + drift
    swing = daily * rng.uniform(0.5, 1.4, DAYS)
    rain = rng.exponential(wet, DAYS) * (rng.random(DAYS) < 0.32 - 0.12 * np.cos((day - hottest) * 2 * np.pi / DAYS))
    return {"low": middle - swing, "mean": middle, "high": middle + swing, "rain": rain}


def smooth(values: np.ndarray, days: int) -> np.ndarray:
    """A centred running mean that keeps the length, with the ends held."""
    padded = np.pad(values, (days // 2, days - 1 - days // 2), "edge")
    return np.convolve(padded, np.ones(days) / days, "valid")


def asked_place() -> str:
    """The place named in the URL, else the first."""
    context = curdoc().session_context
    asked = context.request.arguments.get("place", [b""])[0].decode(errors="replace") if context else ""
    return asked if asked in PLACES else next(iter(PLACES))


dates = np.array([START + timedelta(days=n) for n in range(DAYS)], dtype="datetime64[ms]")
source = ColumnDataSource(name="weather")

place = Select(name="place", title="Place", options=list(PLACES), value=asked_place(), width=240)
days = Slider(name="days", title="Running mean, days", start=1, end=60, step=1, value=1, width=240)
facts = Div(name="facts", width=240, stylesheets=["dd { margin: 0 0 10px; color: #6b7785; }"])

temperature = figure(
    name="temperature", title="Temperature, °C", x_axis_type="datetime", height=320, sizing_mode="stretch_width",
    tools="xpan,xwheel_zoom,reset", active_scroll="xwheel_zoom",
)  # fmt: skip
temperature.varea("date", "low", "high", source=source, color="#7fb2d9", alpha=0.45, legend_label="low to high")
temperature.line("date", "mean", source=source, line_width=2, color="#d1495b", legend_label="mean")
temperature.add_tools(
    HoverTool(
        tooltips=[("day", "@date{%d %b}"), ("mean", "@mean{0.0} °C"), ("rain", "@rain{0.0} mm")],
        formatters={"@date": "datetime"},
        mode="vline",
    )
)
rainfall = figure(
    name="rainfall", title="Rain, mm", x_axis_type="datetime", x_range=temperature.x_range, height=180,
    sizing_mode="stretch_width", tools="xpan,xwheel_zoom,reset",
)  # fmt: skip
rainfall.vbar("date", top="rain", width=86_400_000 * 0.8, source=source, color="#3b6fb6", line_color=None)
rainfall.y_range.start = 0
for plot in (temperature, rainfall):
    plot.toolbar.logo = None
    plot.toolbar_location = None
    plot.x_range.range_padding = 0.01


def refresh(attr, old, new):
    year = year_of(place.value)
    source.data = {"date": dates} | {name: smooth(values, days.value) for name, values in year.items()}
    hottest = dates[int(year["high"].argmax())].astype(object)
    facts.text = (
        f"<dl><dt>Hottest</dt><dd>{year['high'].max():.1f} °C, {hottest:%d %B}</dd>"
        f"<dt>Coldest</dt><dd>{year['low'].min():.1f} °C</dd>"
        f"<dt>Rain</dt><dd>{year['rain'].sum():.0f} mm on {(year['rain'] > 0).sum()} days</dd></dl>"
    )


place.on_change("value", refresh)
days.on_change("value", refresh)
refresh("value", None, None)

curdoc().add_root(column(place, days, facts, name="controls"))
curdoc().add_root(column(temperature, rainfall, name="plots", sizing_mode="stretch_width"))
curdoc().title = "A year of weather"
