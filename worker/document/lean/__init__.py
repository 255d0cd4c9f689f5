"""Models of Bokeh that cost a quarter: the same models, made and read with less work.

Most of what a session costs is Bokeh's property system. For each model it makes every default that could be changed in
place, though hardly any ever is; for each value that is read or written it works out anew what is the same for all
models of a class. The modules here stand in for some of its functions. What apps, viewers and Bokeh's own code see of
a model is the same, ids included; `tests/worker/document/test_lean_models.py` compares with stock Bokeh, class by
class. Only a table of Bokeh's own, `_unstable_default_values`, has fewer entries; one of Bokeh's unit tests reads it.

- `facts`: what holds for all models of a class, worked out once and kept on the class.
- `making`: a model's beginning, and its defaults.
- `containers`: whom a list, set or dict tells that it was changed.
- `setting`: values on their way into a model.
- `reading`: what a model holds and refers to, for serializing and for the document's table of models.

Runs in a worker, after the fork, unless `--stock-models` is given; in a program's own process only if it asks for it.
Models that were made before work as those made later do.
"""

from __future__ import annotations

from aperture.worker.document.lean import containers, making, reading, setting

__all__ = ["install"]


def install() -> None:
    """Monkeypatches Bokeh's property system for the rest of the process. Idempotent."""
    for module in (containers, making, setting, reading):
        module.install()
