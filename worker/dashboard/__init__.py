"""The live dashboard of `aperture serve --admin`: a Bokeh app of our own, served like any other.

`files` and `reader` read what the processes of a node have counted, `figures` is what that looks like, `exchange` has
it from other nodes, `history` makes `rows` and time series of it, `sampler` does so for all open dashboards of a
worker, `page` and `tables` draw, `gate` and `login` say who may look, `mount` puts it together.
"""
