"""The forms in which apps are handed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.document import Document

from aperture.errors import ConfigurationError
from aperture.gateway.embed.applications import applications_of


def fill(document: Document) -> None:
    """An app."""


def test_one_app_is_at_the_root() -> None:
    """A function is wrapped, an application is taken as it is."""
    application = Application()
    assert applications_of(application) == {"/": application}
    (handler,) = applications_of(fill)["/"].handlers
    assert isinstance(handler, FunctionHandler)


def test_several_are_where_they_are_said_to_be() -> None:
    """Of either kind; the caller's mapping stays as it was."""
    given: dict[str, Application | Callable[[Document], Any]] = {"/b": fill, "/a": Application()}
    made = applications_of(given)
    assert list(made) == ["/b", "/a"]
    assert given["/b"] is fill


def test_a_route_is_a_name_however_it_is_written() -> None:
    """As a URL has it, or plain."""
    assert list(applications_of({"/my%20app": fill, "/Übersicht 2": fill})) == ["/my app", "/Übersicht 2"]
    with pytest.raises(ConfigurationError, match="not plain text"):
        applications_of({"/a%09b": fill})


@pytest.mark.parametrize("app", [None, 3, "app.py", ["app.py"], {"/": "app.py"}, {"/": None}, lambda: None])
def test_what_is_no_app_is_refused(app: Any) -> None:
    """A file name would be one on the command line."""
    with pytest.raises(ConfigurationError, match="not an app"):
        applications_of(app)


@pytest.mark.parametrize("route", ["app", "", "/app/", 3])
def test_what_is_no_route_is_refused(route: Any) -> None:
    """It would match nothing."""
    with pytest.raises(ConfigurationError, match="not a route"):
        applications_of({route: fill})
