"""A template with a sidebar and a modal."""

import panel as pn

pn.extension()
template = pn.template.FastListTemplate(title="templated app")
count = pn.widgets.IntSlider(name="count", start=0, end=10, value=1)
press = pn.widgets.Button(name="open the modal")
template.sidebar.append(count)
template.main.append(pn.Column(press, pn.bind(lambda n: f"it is {n} now", count)))
template.modal.append(pn.pane.Markdown("inside of the modal"))
press.on_click(lambda event: template.open_modal())
template.servable()
