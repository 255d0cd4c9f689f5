"""A layer of deck.gl without a map, which follows a slider."""

import panel as pn

pn.extension("deckgl")

count = pn.widgets.IntSlider(name="count", start=1, end=10, value=2)


def deck(n):
    return {
        "initialViewState": {"longitude": 0, "latitude": 0, "zoom": 14},
        "layers": [
            {
                "@@type": "ScatterplotLayer",
                "id": f"points {n}",
                "data": [{"position": [0.001 * i, 0.0]} for i in range(n)],
                "getPosition": "@@=position",
                "getRadius": 20,
            }
        ],
        "mapStyle": None,
    }


pn.Column(
    count,
    pn.pane.DeckGL(pn.bind(deck, count), height=200, width=300),
    pn.bind(lambda n: f"count is {n}", count),
).servable()
