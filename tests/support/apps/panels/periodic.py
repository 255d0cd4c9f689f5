"""A periodic callback that counts."""

import panel as pn

pn.extension()
text = pn.pane.Markdown("tick 0")
count = pn.widgets.IntInput(value=0, visible=False)


def tick():
    count.value += 1
    text.object = f"tick {count.value}"


pn.state.add_periodic_callback(tick, period=100)
pn.Column(count, text).servable()
