"""Shows what `session_context.request` holds, as JSON in the text of a Div."""

import json

from bokeh.io import curdoc
from bokeh.models import Div

context = curdoc().session_context
request = context.request
known = {
    "id": context.id,
    "arguments": {key: [value.decode() for value in values] for key, values in request.arguments.items()},
    "cookies": dict(request.cookies),
    "headers": dict(request.headers),
    "logout_url": context.logout_url,
    "path": request.path,
    "protocol": request.protocol,
    "remote_ip": request.remote_ip,
}
curdoc().add_root(Div(name="context", text=json.dumps(known)))
