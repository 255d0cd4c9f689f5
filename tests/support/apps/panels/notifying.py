"""Notifications."""

import panel as pn

pn.extension(notifications=True)
press = pn.widgets.Button(name="press me")
press.on_click(lambda event: pn.state.notifications.info(f"told {press.clicks} times", duration=0))
pn.Column(press).servable()
