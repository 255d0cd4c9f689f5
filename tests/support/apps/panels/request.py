"""What a session knows of the request that it was made from."""

import panel as pn

pn.extension()
cookie = pn.state.cookies.get("flavour", "none")
args = {name: [value.decode() for value in values] for name, values in pn.state.session_args.items()}
press = pn.widgets.Button(name="press me")
again = pn.pane.Markdown("")


def on_press(event):
    again.object = f"still {pn.state.cookies.get('flavour')} {sorted(pn.state.session_args)}"


press.on_click(on_press)
pn.Column(
    f"cookie {cookie}",
    f"arguments {args}",
    f"browser {'Chrome' in pn.state.headers.get('User-Agent', '')}",
    f"url {pn.state.app_url} served {pn.state.served}",
    press,
    again,
).servable()
