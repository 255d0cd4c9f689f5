"""An indicator that follows whether the app is at work."""

import time

import panel as pn

pn.extension()
spinner = pn.indicators.LoadingSpinner(value=False, name="spinner")
pn.state.sync_busy(spinner)
seen = []
spinner.param.watch(lambda event: seen.append(event.new), "value")
press = pn.widgets.Button(name="press me")
done = pn.pane.Markdown("idle")


def work(event):
    time.sleep(0.05)
    done.object = f"done {press.clicks}, busy {pn.state.busy}, was seen {True in seen}"


press.on_click(work)
pn.Column(spinner, press, done).servable()
