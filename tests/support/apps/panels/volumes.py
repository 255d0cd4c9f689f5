"""A volume, drawn by vtk.js, which follows a slider."""

import numpy as np
import panel as pn

pn.extension("vtk")

count = pn.widgets.IntSlider(name="count", start=1, end=10, value=2)


def volume(n):
    return np.arange(16 * n, dtype="uint8").reshape(4, 4, n)


pn.Column(
    count,
    pn.pane.VTKVolume(pn.bind(volume, count), height=200, width=300),
    pn.bind(lambda n: f"count is {n}", count),
).servable()
