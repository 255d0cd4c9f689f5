"""What both ends of a connection do with a Bokeh document: apply what the other sends, and number the models made."""
