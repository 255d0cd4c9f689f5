"""The app beside the hooks: says that it ran, and shows what `process_request` returned."""

import os
from pathlib import Path

from bokeh.io import curdoc
from bokeh.models import Div

context = curdoc().session_context
with Path(os.environ["HOOKS"]).open("a") as hooks:
    hooks.write(f"main {context.id} {os.getpid()}\n")
curdoc().add_root(Div(name="payload", text=context.token_payload["greeting"]))
