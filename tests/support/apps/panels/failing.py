"""A callback that fails, what is logged of it, and what a session does at its end."""

import logging

import panel as pn

text = pn.pane.Markdown("nothing failed")


def on_failure(problem):
    text.object = f"failed with {problem}"


pn.extension(exception_handler=on_failure)
press = pn.widgets.Button(name="press me")


def fail(event):
    raise ValueError(f"number {press.clicks}")


press.on_click(fail)
pn.state.on_session_destroyed(lambda context: logging.getLogger("failing").warning("the session has ended"))
pn.Column(text, press).servable()
