"""An app whose page asks for an extension's script; `support/extensions` must be on PYTHONPATH."""

from bokeh.io import curdoc
from tinyext import TinyDiv

curdoc().add_root(TinyDiv(name="tiny", text="here"))
