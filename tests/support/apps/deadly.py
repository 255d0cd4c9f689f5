"""A callback that ends its process, as a crash in some library would."""

import os
import signal

from bokeh.io import curdoc
from bokeh.models import Slider

slider = Slider(name="slider", start=0, end=100, value=0)
slider.on_change("value", lambda attr, old, new: os.kill(os.getpid(), signal.SIGKILL) if new == 13 else None)
curdoc().add_root(slider)
