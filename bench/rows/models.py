"""What the models of a session cost: to make, to write out for the first page, and to keep.

No server takes part. Stock Bokeh makes documents as `bokeh serve` does and writes them as it answers a pull; ours does
it as a worker does.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from bokeh.application import Application
from bokeh.command.util import build_single_handler_application
from bokeh.document import Document
from bokeh.protocol.messages.pull_doc_reply import pull_doc_reply
from servers import APPS

from aperture.document.ids import IdSequence
from aperture.protocol.codec import encode_document
from aperture.worker.document.loading import new_document
from rows.contest import Contest, Make, contend, turns
from rows.row import Group, Plan, Result, Row, Target

__all__ = ["GROUP"]

OF = {"slider": "small app", "curve": "one plot", "grid": "160 models"}
"""The apps, and what the rows call them."""

WEIGHED = 5
"""Documents that are weighed together."""

_numbers = count()


def _application(app: str) -> Application:
    return build_single_handler_application(str(APPS / f"{app}.py"))


def _made_by_ours(application: Application) -> Document:
    with IdSequence(f"bench {next(_numbers)}").active():
        document = new_document()
        application.initialize_document(document)
    return document


def making(app: str) -> Contest:
    """The app's code runs."""
    application = _application(app)
    return Contest(application.create_document, partial(_made_by_ours, application))


def writing(app: str) -> Contest:
    """A document without viewers is written out."""
    application = _application(app)
    theirs, our_own = application.create_document(), _made_by_ours(application)
    return Contest(
        lambda: pull_doc_reply.create("C1D6", theirs).content_json,  # type: ignore[arg-type]
        lambda: encode_document(our_own, inline=False),
    )


def weighing(app: str) -> Contest:
    """What Python allocates for a document, in KB."""
    application = _application(app)
    return Contest(
        partial(_weigh, application.create_document), partial(_weigh, partial(_made_by_ours, application)), weighed=True
    )


def _weigh(make: Callable[[], Document]) -> float:
    make()
    gc.collect()
    tracemalloc.start()
    try:
        kept = [make() for _ in range(WEIGHED)]
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return size / len(kept) / 1024


TASKS: dict[str, tuple[str, str, Callable[[str], Contest]]] = {
    "make": ("make the models", "us", making),
    "write": ("write the first document", "us", writing),
    "weigh": ("memory of the models", "KB", weighing),
}
TARGETS = {("make", "curve"): Target(faster=4), ("weigh", "curve"): Target(faster=3)}
ROWS: dict[Row, Make] = {
    Row(f"{task}-{app}", f"{title}, {OF[app]}", unit, TARGETS.get((task, app), Target())): partial(make, app)
    for task, (title, unit, make) in TASKS.items()
    for app in OF
}


def measure(plan: Plan) -> Iterator[Result]:
    yield from contend({row: make for row, make in ROWS.items() if row.name in plan.rows}, turns(plan.repeat))


GROUP = Group(tuple(ROWS), measure)
