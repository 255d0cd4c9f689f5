"""An async generator that is bound to a widget."""

import asyncio

import panel as pn

pn.extension()
count = pn.widgets.IntSlider(name="count", start=0, end=10, value=2)


async def steps(n):
    for step in range(n + 1):
        yield f"step {step} of {n}"
        await asyncio.sleep(0.02)


pn.Column(count, pn.bind(steps, count)).servable()
