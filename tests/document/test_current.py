"""`aperture.document.current`: what is current is put back, whatever happens."""

from __future__ import annotations

import sys
import threading
import weakref
from contextvars import Context, ContextVar
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.io import curdoc, doc

from aperture.document import current
from aperture.document.current import invoke_with_curdoc


@pytest.fixture(autouse=True)
def installed() -> None:
    current.install()


def _fail() -> None:
    raise ZeroDivisionError


def test_a_failing_callback_leaves_nothing_behind() -> None:
    """After it `curdoc()` is what it was before, though Bokeh's own would leave the callback's document there."""
    document, before = Document(), curdoc()
    with pytest.raises(ZeroDivisionError):
        invoke_with_curdoc(document, _fail)
    assert curdoc() is before
    assert len(doc._PATCHED_CURDOCS) == 0


def test_documents_are_current_inside_of_each_other() -> None:
    """Each from its beginning to its end, the same one twice included."""
    one, other = Document(), Document()
    with doc.patch_curdoc(one):
        with doc.patch_curdoc(other):
            with doc.patch_curdoc(one):
                assert curdoc() is one
            assert curdoc() is other
        assert curdoc() is one
    assert len(doc._PATCHED_CURDOCS) == 0


def test_who_ends_first_takes_only_its_own_away() -> None:
    """Two uses of one context may overlap without being inside of each other."""
    one, other = Document(), Document()
    first, second = doc.patch_curdoc(one), doc.patch_curdoc(other)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert curdoc() is other
    second.__exit__(None, None, None)
    assert len(doc._PATCHED_CURDOCS) == 0


def test_each_thread_has_its_own() -> None:
    """Callbacks of several sessions run at the same time: none of them may see, or take away, another one's."""
    failures: list[BaseException] = []

    def act() -> None:
        document = Document()
        try:
            for _ in range(3000):
                with doc.patch_curdoc(document):
                    assert curdoc() is document
        except BaseException as problem:
            failures.append(problem)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=act) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert len(doc._PATCHED_CURDOCS) == 0


def test_a_context_variable_is_put_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after Bokeh 3.10 keeps the current documents in one, as a tuple: each thread has its own."""
    variable: ContextVar[tuple[Any, ...]] = ContextVar("patched")
    monkeypatch.setattr(doc, "_PATCHED_CURDOCS", variable)
    one, other = Document(), Document()

    def current_documents() -> list[Document]:
        return [reference() for reference in variable.get(())]

    with doc.patch_curdoc(one):
        with pytest.raises(ZeroDivisionError), doc.patch_curdoc(other):
            assert current_documents() == [one, other]
            assert Context().run(current_documents) == []
            raise ZeroDivisionError
        assert current_documents() == [one]
    assert current_documents() == []


def test_what_is_current_already_is_not_added_again() -> None:
    """Nor taken away by who came second; what is current in another thread only does not count."""
    one, other = Document(), Document()
    depths: list[int] = []

    def look() -> None:
        depths.append(len(doc._PATCHED_CURDOCS))

    def outer() -> None:
        invoke_with_curdoc(one, look)
        invoke_with_curdoc(other, lambda: invoke_with_curdoc(one, look))
        invoke_with_curdoc(one, look)
        aside = threading.Thread(target=lambda: invoke_with_curdoc(one, look))
        aside.start()
        aside.join()
        assert curdoc() is one

    invoke_with_curdoc(one, outer)
    assert depths == [1, 3, 1, 1]
    assert len(doc._PATCHED_CURDOCS) == 0


def test_the_list_is_one_of_each_context() -> None:
    """Panel and tests read and change Bokeh's list themselves."""
    document = Document()
    doc._PATCHED_CURDOCS.append(weakref.ref(document))
    assert curdoc() is document
    assert len(doc._PATCHED_CURDOCS) == 1
    assert Context().run(lambda: len(doc._PATCHED_CURDOCS)) == 0
    doc._PATCHED_CURDOCS[-1] = weakref.ref(other := Document())
    assert curdoc() is other
    doc._PATCHED_CURDOCS.insert(0, weakref.ref(document))
    doc._PATCHED_CURDOCS.pop()
    assert curdoc() is document
    doc._PATCHED_CURDOCS.clear()
    assert len(doc._PATCHED_CURDOCS) == 0


def test_without_the_lock() -> None:
    """A callback that does not want the document's lock gets the document's proxy, also inside of one that does."""
    document = Document()
    seen: list[object] = []

    def unlocked() -> None:
        seen.append(type(curdoc()).__name__)

    unlocked.nolock = True  # type: ignore[attr-defined]
    invoke_with_curdoc(document, lambda: invoke_with_curdoc(document, unlocked))
    assert seen == ["UnlockedDocumentProxy"]
