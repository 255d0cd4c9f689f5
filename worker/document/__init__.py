"""The only place that touches Bokeh's internals: apps, model ids, changes, taking documents apart."""
