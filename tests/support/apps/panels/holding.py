"""Many changes in one: some as the app runs, some when a button is pressed."""

import panel as pn

pn.extension()
texts = [pn.pane.Markdown(f"text {number} old") for number in range(5)]
press = pn.widgets.Button(name="press me")


def change_all(what):
    with pn.io.hold():
        for number, text in enumerate(texts):
            text.object = f"text {number} {what}"


press.on_click(lambda event: change_all(f"new {press.clicks}"))
pn.state.onload(lambda: change_all("ready"))
pn.Column(press, *texts).servable()
