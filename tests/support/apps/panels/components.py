"""Components that a script defines: in JavaScript, by a template, and with a style sheet in a file of its own."""

from typing import ClassVar

import panel as pn
import param
from panel.custom import JSComponent, ReactiveHTML

pn.extension()


class Counter(JSComponent):
    value = param.Integer(default=0)

    _esm = """
    export function render({ model }) {
      const button = document.createElement("button");
      button.className = "counter";
      const show = () => { button.textContent = `counted ${model.value}`; };
      button.onclick = () => { model.value += 1; };
      model.on("value", show);
      show();
      return button;
    }
    """


class Typed(ReactiveHTML):
    text = param.String(default="nothing")

    _template = '<input id="field" class="typed" value="${text}" onchange="${script(\'typed\')}"></input>'
    _scripts: ClassVar = {"typed": "data.text = field.value"}


class Styled(JSComponent):
    _esm = 'export function render() { const p = document.createElement("p"); p.textContent = "styled"; return p; }'
    _stylesheets: ClassVar = ["styled.css"]


counter, typed = Counter(), Typed()
pn.Column(
    counter,
    pn.bind(lambda n: f"python has {n}", counter.param.value),
    typed,
    pn.bind(lambda text: f"python read {text}", typed.param.text),
    Styled(),
).servable()
