"""A client of Bokeh sessions that works anywhere: blocking, or inside a running event loop."""
