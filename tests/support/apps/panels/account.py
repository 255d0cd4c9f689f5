"""Who is logged in, as Panel knows it."""

import panel as pn

pn.extension()
info = pn.state.user_info or {}
# As plain text: Markdown makes links of addresses.
pn.Column(
    pn.pane.Str(f"user {pn.state.user}"),
    pn.pane.Str(f"info {info.get('email') or info.get('user')}"),
    pn.pane.Str(f"access {pn.state.access_token}"),
).servable()
