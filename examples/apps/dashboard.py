"""A live dashboard of a web service that does not exist.

A periodic callback draws one sample of traffic four times a second and streams it to the page: a stacked area of
requests by region, latency percentiles, a scrolling heatmap of latencies (a numpy array that goes out as a binary
buffer) and a bar per region. `rollover` keeps the page's memory bounded however long it stays open.

Every session has a simulation of its own, seeded, so two people see the same weather but not the same second.
"""

import numpy as np
from bokeh.io import curdoc
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, Div, GlobalInlineStyleSheet, HoverTool, Slider, Toggle
from bokeh.palettes import Palette
from bokeh.plotting import figure
from bokeh.themes import Theme

PERIOD_MS = 250
SPAN = 240  # samples kept in the browser: one minute
BINS = 36  # rows of the heatmap
SAMPLE = 600  # requests drawn per tick to build the latency distribution
LATENCY_RANGE = (5.0, 640.0)  # milliseconds

REGIONS = ("Frankfurt", "Virginia", "Singapore", "São Paulo")
COLOURS = ("#3b6fb6", "#48a9a6", "#e4b363", "#d1495b")
SHARE = np.array([0.38, 0.31, 0.20, 0.11])  # of the traffic, by region
SLOWNESS = np.array([1.0, 1.05, 1.3, 1.55])  # of a region, relative to the fastest
INK, FAINT, LINE = "#27313f", "#77808c", "#e7eaee"

rng = np.random.default_rng(5006)


def heat_palette() -> Palette:
    """White to deep blue, in 64 steps, so that an empty cell vanishes into its card."""
    stops = np.array([[255, 255, 255], [197, 219, 240], [59, 111, 182], [24, 45, 92]])
    steps = np.linspace(0, len(stops) - 1, 64)
    channels = [np.interp(steps, range(len(stops)), stops[:, c]).astype(int) for c in range(3)]
    return tuple(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in zip(*channels, strict=True))


class Service:
    """The simulated service: slow waves of traffic, noise, and a bad minute now and then."""

    def __init__(self) -> None:
        self.tick = 0
        self.strain = 0.0

    def step(self, load: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Advance a quarter of a second.

        Args:
            load: the traffic relative to a usual day.

        Returns:
            requests per second by region, a sample of latencies in ms, and the error rate in percent.
        """
        self.tick += 1
        phase = self.tick / 45 + np.arange(len(REGIONS)) * 1.1
        wave = 1 + 0.28 * np.sin(phase) + 0.10 * np.sin(3.7 * phase)
        requests = 1800 * load * SHARE * wave * rng.normal(1, 0.03, len(REGIONS))
        self.strain = 0.94 * self.strain + 0.35 * (rng.random() < 0.012 * load)
        regions = rng.choice(len(REGIONS), SAMPLE, p=SHARE)
        usual = 32 * SLOWNESS[regions] * (0.75 + 0.3 * load) * (1 + 3 * self.strain)
        latencies = rng.lognormal(np.log(usual), 0.42)
        return requests, latencies, 0.12 * load + 2.2 * self.strain + rng.normal(0, 0.02) ** 2


edges = np.geomspace(*LATENCY_RANGE, BINS + 1)
service = Service()
heat = np.zeros((BINS, SPAN), dtype=np.float32)


def observe(load: float) -> dict[str, list[float]]:
    """One row for the stream; the heatmap moves one column to the left."""
    requests, latencies, errors = service.step(load)
    heat[:, :-1] = heat[:, 1:]
    heat[:, -1] = np.histogram(latencies, edges)[0] / SAMPLE
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
    measured = {"t": service.tick * PERIOD_MS / 1000, "p50": p50, "p95": p95, "p99": p99, "errors": errors}
    measured |= dict(zip(REGIONS, requests, strict=True))
    return {name: [float(value)] for name, value in measured.items()}


# The page opens on a full minute, not on an empty chart.
history = [observe(1.0) for _ in range(SPAN)]
telemetry = ColumnDataSource(
    name="telemetry",
    data={key: np.concatenate([sample[key] for sample in history]) for key in history[0]},
)
heat_source = ColumnDataSource(name="heat", data={"image": [heat.copy()], "x": [0.0]})
bars = ColumnDataSource(
    name="regions",
    data={"region": REGIONS, "requests": [telemetry.data[r][-1] for r in REGIONS], "colour": COLOURS},
)


def card(title: str, height: int, **options: object) -> figure:
    """An empty plot that looks like a card."""
    options = {"tools": "", "toolbar_location": None, "sizing_mode": "stretch_width"} | options
    plot = figure(title=title, height=height, css_classes=["card"], **options)
    plot.min_border_left, plot.min_border_right = 60, 28
    plot.min_border_top, plot.min_border_bottom = 44, 36
    return plot


def traffic_card() -> figure:
    plot = card("Requests per second, by region", 270, name="traffic")
    plot.varea_stack(list(REGIONS), x="t", source=telemetry, color=COLOURS, alpha=0.85, legend_label=list(REGIONS))
    plot.x_range.range_padding = 0
    plot.y_range.start, plot.y_range.range_padding = 0, 0.3  # room for the legend
    plot.legend.orientation = "horizontal"
    plot.legend.location = "top_left"
    return plot


def latency_card(x_range: object) -> figure:
    plot = card("Latency percentiles, ms", 250, name="latency", x_range=x_range, y_axis_type="log")
    for quantile, colour, width in (("p99", "#d1495b", 1.5), ("p95", "#e4b363", 2), ("p50", "#3b6fb6", 2.5)):
        plot.line("t", quantile, source=telemetry, color=colour, line_width=width, legend_label=quantile)
    plot.y_range.start, plot.y_range.end = 15, 1200
    plot.yaxis.ticker = [20, 50, 100, 200, 500]
    plot.legend.orientation = "horizontal"
    plot.legend.location = "top_left"
    plot.add_tools(HoverTool(tooltips=[(q, f"@{q}{{0}} ms") for q in ("p50", "p95", "p99")], mode="vline"))
    return plot


def heat_card(x_range: object) -> figure:
    plot = card("Where the latencies lie, ms", 250, name="heatmap", x_range=x_range)
    plot.image("image", x="x", y=0, dw=SPAN * PERIOD_MS / 1000, dh=BINS, source=heat_source, palette=heat_palette())
    plot.y_range.start, plot.y_range.end = 0, BINS
    ticks = (10, 20, 50, 100, 200, 500)
    places = [float(np.interp(np.log(ms), np.log(edges), np.arange(BINS + 1))) for ms in ticks]
    plot.yaxis.ticker = places
    plot.yaxis.major_label_overrides = {place: str(ms) for place, ms in zip(places, ticks, strict=True)}
    plot.ygrid.visible = False
    return plot


def region_card() -> figure:
    plot = card("Right now", 270, name="now", y_range=list(reversed(REGIONS)), x_range=(0, 1400))
    plot.hbar("region", right="requests", height=0.55, color="colour", alpha=0.85, source=bars)
    plot.ygrid.visible = False
    plot.min_border_left = 84
    return plot


def tile(label: str, figure_text: str, unit: str, colour: str) -> str:
    """One number, as it is read from across the room."""
    return f'<div class="tile" style="--accent:{colour}"><b>{figure_text}<i>{unit}</i></b><span>{label}</span></div>'


def tiles() -> str:
    last = {key: values[-1] for key, values in telemetry.data.items()}
    total = sum(last[region] for region in REGIONS)
    numbers = "".join(
        (
            tile("requests", f"{total:,.0f}", "/s", COLOURS[0]),
            tile("median latency", f"{last['p50']:.0f}", "ms", COLOURS[1]),
            tile("99th percentile", f"{last['p99']:.0f}", "ms", COLOURS[2]),
            tile("errors", f"{last['errors']:.2f}", "%", COLOURS[3]),
        )
    )
    return f'<div class="tiles">{numbers}</div>'


PAGE_CSS = GlobalInlineStyleSheet(
    css=f"""
    body {{ background: #f3f5f8; margin: 0; color: {INK}; }}
    """
)
TILE_CSS = f"""
    .bk-clearfix {{ width: 100%; }}
    .tiles {{ display: flex; gap: 16px; }}
    .tile {{ flex: 1; background: #fff; border-radius: 10px; padding: 14px 18px; border-left: 4px solid var(--accent);
             box-shadow: 0 1px 3px rgb(39 49 63 / 14%); }}
    .tile b {{ display: block; font-size: 30px; font-weight: 600; line-height: 36px; color: {INK};
               font-variant-numeric: tabular-nums; }}
    .tile i {{ font-style: normal; font-size: 15px; font-weight: 400; color: {FAINT}; margin-left: 4px; }}
    .tile span {{ font-size: 13px; color: {FAINT}; }}
"""
CARD_CSS = (
    ":host { border-radius: 10px; overflow: hidden; background: #fff; box-shadow: 0 1px 3px rgb(39 49 63 / 14%); }"
)
THEME = Theme(
    json={
        "attrs": {
            "Plot": {"background_fill_color": None, "border_fill_color": "#ffffff", "outline_line_color": None},
            "Title": {"text_color": INK, "text_font_size": "14px", "text_font_style": "bold", "standoff": 12},
            "Axis": {
                "axis_line_color": LINE,
                "major_tick_line_color": None,
                "minor_tick_line_color": None,
                "major_label_text_color": FAINT,
                "major_label_text_font_size": "11px",
            },
            "Grid": {"grid_line_color": LINE},
            "Legend": {
                "border_line_color": None,
                "background_fill_alpha": 0.75,
                "label_text_color": FAINT,
                "label_text_font_size": "12px",
                "glyph_width": 14,
                "padding": 4,
                "spacing": 14,
            },
        }
    }
)

heading = Div(
    text=f'<div style="font-size:24px;font-weight:600;color:{INK}">Service pulse</div>'
    f'<div style="font-size:13px;color:{FAINT}">one minute of traffic, four samples a second</div>',
    stylesheets=[PAGE_CSS],
)
summary = Div(name="summary", text=tiles(), sizing_mode="stretch_width", stylesheets=[TILE_CSS], margin=0)
load = Slider(name="load", title="Traffic, relative to a usual day", start=0.2, end=2.0, step=0.1, value=1.0, width=280)
pause = Toggle(name="pause", label="Pause", width=90)

traffic, now = traffic_card(), region_card()
latency, heatmap = latency_card(traffic.x_range), heat_card(traffic.x_range)
for plot in (traffic, now, latency, heatmap):
    plot.stylesheets = [CARD_CSS]
now.sizing_mode, now.width = "fixed", 380


def update() -> None:
    """Runs four times a second in each open session."""
    if pause.active:
        return
    sample = observe(load.value)
    telemetry.stream(sample, rollover=SPAN)
    heat_source.data = {"image": [heat.copy()], "x": [telemetry.data["t"][0]]}
    bars.patch({"requests": [(slice(len(REGIONS)), [sample[region][0] for region in REGIONS])]})
    summary.text = tiles()


def relabel(attr, old, new):
    pause.label = "Resume" if new else "Pause"


pause.on_change("active", relabel)

page = column(
    row(heading, Div(sizing_mode="stretch_width"), load, pause, sizing_mode="stretch_width", spacing=16),
    summary,
    row(traffic, now, sizing_mode="stretch_width", spacing=16),
    row(latency, heatmap, sizing_mode="stretch_width", spacing=16),
    sizing_mode="stretch_width",
    spacing=16,
    margin=24,
    name="page",
)
curdoc().theme = THEME
curdoc().title = "Service pulse"
curdoc().add_root(page)
curdoc().add_periodic_callback(update, PERIOD_MS)
