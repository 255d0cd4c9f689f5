"""One websocket: the handshake's checks, Bokeh's messages in, ready frames out."""
