"""What a process computes once."""

import panel as pn

pn.extension()
made = []


def compute():
    made.append(1)
    return "forty-two"


value = pn.state.as_cached("answer", compute)
pn.state.as_cached("answer", compute)


@pn.cache
def squared(n):
    made.append(n)
    return n * n


count = pn.widgets.IntSlider(name="count", start=0, end=10, value=3)
pn.Column(
    f"cached {value}, computed at most once {len(made) <= 1}",
    count,
    pn.bind(lambda n: f"squared {squared(n)} {squared(n)}", count),
).servable()
