"""Bokeh's wire protocol without I/O: tokens, fragments in, frames out, and the codec between events and bytes.

Nothing here imports a loop, a socket or a server; a test says so. `codec` and what it is made of import Bokeh's models;
`tokens`, `frames`, `messages` and `fragments` import none of Bokeh, so the gateway and an edge can use them cheaply.
"""
