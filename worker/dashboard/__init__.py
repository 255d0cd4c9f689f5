"""The live dashboard of `aperture serve --admin`: a Bokeh app of our own, served like any other.

`files` and `reader` read the counters of a node's processes, `figures` has their types, `exchange` fetches them from
other nodes, `history` turns them into `rows` and time series, `sampler` runs that once for all open dashboards of a
worker, `page` and `tables` draw, `gate` and `login` decide who may see the page, `mount` puts it together.
"""
