"""An app whose own code writes to the log: when it is made, when its slider moves, and on the next tick after that.

A thread of its own does so, too, which knows nothing of what it runs for.
"""

import logging
import threading

from bokeh.io import curdoc
from bokeh.models import Slider

log = logging.getLogger("bokeh.talking")
slider = Slider(name="slider", start=0, end=100, value=0)


def later():
    log.info("and a tick later")


def moved(attr, old, new):
    if new == 13:
        raise ValueError("an unlucky number")
    log.info("the slider went to %d\nand no further", new, extra={"position": new})
    curdoc().add_next_tick_callback(later)


slider.on_change("value", moved)
curdoc().add_root(slider)
log.info("an app is made for %s", curdoc().session_context.id)
threading.Thread(target=log.info, args=("a thread has heard of %s", curdoc().session_context.id)).start()
