"""What runs in each forked worker: HTTP pages, websockets, sessions and the document's patch path."""
