"""Apps: what must load before a worker may say that it serves, and the empty document that an app fills."""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bokeh.application import Application
from bokeh.application.application import SessionContext
from bokeh.application.handlers.document_lifecycle import DocumentLifecycleHandler
from bokeh.application.handlers.lifecycle import LifecycleHandler
from bokeh.document import Document

from aperture.errors import AppLoadError
from aperture.worker.document.changes import OrderedCallbacks

__all__ = ["check_imports", "failure_of", "new_document", "use_our_lifecycle"]


def new_document() -> Document:
    """An empty document whose changes come in the order in which they happen."""
    document = Document()
    # Bokeh's own manager holds a method of itself, and so would wait for a collection once it is replaced.
    document.callbacks._message_callbacks.clear()
    document.callbacks = OrderedCallbacks(document)
    return document


class SessionDestroyedHandler(LifecycleHandler):
    """Calls what the app gave to `Document.on_session_destroyed`.

    Bokeh's own handler collects all garbage after each session that had such a callback, which stalls the event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._on_session_destroyed = _call_session_destroyed


def _call_session_destroyed(context: SessionContext) -> None:
    document: Document = context._document  # type: ignore[attr-defined]
    callbacks = list(document.session_destroyed_callbacks)
    document.callbacks.session_destroyed_callbacks = set()
    failures = []
    for callback in callbacks:
        try:
            callback(context)
        except Exception as problem:
            failures.append(problem)
    if failures:
        raise ExceptionGroup("on_session_destroyed callbacks failed", failures)


def use_our_lifecycle(application: Application) -> None:
    """Make the application call `Document.on_session_destroyed` callbacks, the way a server should."""
    kept = [h for h in application._handlers if not isinstance(h, DocumentLifecycleHandler)]
    if not any(isinstance(h, SessionDestroyedHandler) for h in kept):
        kept.append(SessionDestroyedHandler())
    application._handlers[:] = kept


def failure_of(application: Application) -> str | None:
    """The traceback of the first handler, or package of a directory app, that has failed for good, or None."""
    for handler in application.handlers:
        # Bokeh runs a package without looking at what came of it.
        for part in (handler, getattr(handler, "_package_runner", None)):
            if part is not None and part.failed:
                return part.error_detail or part.error or f"{handler!r} failed"
    return None


def check_imports(applications: Mapping[str, Application]) -> None:
    """Import what the apps' files import at their top level.

    A module that is missing then stops the start of the node with the app's traceback, instead of an empty page for
    every visitor; and the first visitor does not wait for imports. Runs in each worker, after the fork.

    Raises:
        AppLoadError: an import failed.
    """
    for url, application in applications.items():
        for path, source in _sources(application):
            with _as_the_app_runs(path):
                _import_all(url, path, source)


def _sources(application: Application) -> Iterator[tuple[str, str]]:
    for handler in application.handlers:
        # A directory app keeps the handler of its main.py inside.
        code = getattr(handler, "_main_handler", handler)
        runner = getattr(code, "_runner", None)
        if runner is not None and runner.source is not None:
            yield os.fspath(runner.path), runner.source


@contextmanager
def _as_the_app_runs(path: str) -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        yield
    finally:
        sys.path[:] = before


def _import_all(url: str, path: str, source: str) -> None:
    try:
        tree = ast.parse(source, path)
    except SyntaxError:
        return  # the handler has reported it already
    for node in tree.body:
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.level == 0):
            _import_one(url, path, node)


def _import_one(url: str, path: str, node: ast.Import | ast.ImportFrom) -> None:
    statement = ast.Module(body=[node], type_ignores=[])
    try:
        # The statement is the app's own; it is compiled under the app's path so that the traceback shows it.
        exec(compile(statement, path, "exec"), {"__name__": "aperture_import_check", "__file__": path})  # noqa: S102
    except Exception as problem:
        shown = problem.with_traceback(problem.__traceback__.tb_next if problem.__traceback__ else None)
        raise AppLoadError(url, "".join(traceback.format_exception(shown))) from problem
