"""A table that is streamed to, edited and paged by the server."""

import pandas as pd
import panel as pn

pn.extension("tabulator")
table = pn.widgets.Tabulator(pd.DataFrame({"word": ["one", "two", "three"]}), height=200)
paged = pn.widgets.Tabulator(pd.DataFrame({"row": [f"row {n}" for n in range(40)]}), pagination="remote", page_size=5)
press = pn.widgets.Button(name="stream")
seen = pn.pane.Markdown("nothing edited")


def stream(event):
    table.stream({"word": [f"more {press.clicks}"]}, follow=False)


press.on_click(stream)
table.on_edit(lambda event: setattr(seen, "object", f"edited {event.row} to {event.value}"))
pn.Column(press, seen, table, paged).servable()
