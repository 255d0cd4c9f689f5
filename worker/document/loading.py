"""Apps: what must load before a worker may say that it serves, and the empty document that an app fills."""

from __future__ import annotations

import ast
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from bokeh.application import Application
from bokeh.application.application import SessionContext
from bokeh.application.handlers.code_runner import CodeRunner
from bokeh.application.handlers.document_lifecycle import DocumentLifecycleHandler
from bokeh.application.handlers.lifecycle import LifecycleHandler
from bokeh.document import Document

from aperture.errors import AppLoadError
from aperture.worker.patch.callbacks import OrderedCallbacks

__all__ = ["check_imports", "failure_of", "new_document", "use_our_lifecycle"]

log = logging.getLogger(__name__)


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
    """Import what the apps' files import before they do anything else.

    A module that is missing then stops the start of the node with the app's traceback, instead of an empty page for
    every visitor; and the first visitor does not wait for imports. Whatever else goes wrong is logged and left to the
    sessions: a module may need what only a session has. Runs in each worker, after the load hooks and on the running
    loop, because that is what an app's imports find when its sessions run them.

    Raises:
        AppLoadError: a module is missing.
    """
    for url, application in applications.items():
        for runner in _runners(application):
            with _as_the_app_runs(runner):
                _import_all(url, os.fspath(runner.path), runner.source)


def _runners(application: Application) -> Iterator[CodeRunner]:
    for handler in application.handlers:
        # A directory app keeps the handler of its main.py inside.
        code = getattr(handler, "_main_handler", handler)
        runner = getattr(code, "_runner", None)
        if runner is not None and runner.source is not None:
            yield runner


@contextmanager
def _as_the_app_runs(runner: CodeRunner) -> Iterator[None]:
    """The search path and arguments of Bokeh's `CodeRunner.run`; a module beside the app may parse the latter."""
    folder, argv = os.path.dirname(os.path.abspath(runner.path)), sys.argv
    sys.path.insert(0, folder)
    sys.argv = [os.path.basename(runner.path), *runner._argv]
    try:
        yield
    finally:
        # What a module beside the app has added stays: it is imported once, and what the app imports next may be there.
        with suppress(ValueError):
            sys.path.remove(folder)
        sys.argv = argv


def _import_all(url: str, path: str, source: str) -> None:
    try:
        tree = ast.parse(source, path)
    except SyntaxError:
        return  # the handler has reported it already
    for node in _leading_imports(tree.body):
        if not _import_one(url, path, node):
            return  # what comes after it may need what it would have done


def _leading_imports(body: Sequence[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those before the first statement that does something, which may be what makes a later import possible."""
    for node in body:
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.level == 0):
            yield node
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return  # a relative import, too: it needs the app's package, and may do anything


def _import_one(url: str, path: str, node: ast.Import | ast.ImportFrom) -> bool:
    """Whether it could be imported."""
    statement = ast.Module(body=[node], type_ignores=[])
    try:
        # The statement is the app's own; it is compiled under the app's path so that the traceback shows it.
        exec(compile(statement, path, "exec"), {"__name__": "aperture_import_check", "__file__": path})  # noqa: S102
    except (Exception, SystemExit) as problem:
        shown = problem.with_traceback(problem.__traceback__.tb_next if problem.__traceback__ else None)
        # Only `import` itself names what is missing; a module that raises the error by hand may need a session.
        if isinstance(problem, ImportError) and problem.name is not None:
            raise AppLoadError(url, "".join(traceback.format_exception(shown))) from problem
        log.warning("an import of %s fails outside of a session, and is left to the sessions", url, exc_info=shown)
        return False
    return True
