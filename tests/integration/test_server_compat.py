"""`Server` inside a program, the same for stock Bokeh's class and for ours: constructor, members, routes, hooks."""

from __future__ import annotations

import errno
import gc
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.application.handlers.lifecycle import LifecycleHandler
from bokeh.client import pull_session
from bokeh.document import Document
from bokeh.models.widgets import Div, Slider
from bokeh.server.auth_provider import AuthModule
from bokeh.util.token import generate_secret_key, generate_session_id
from support.aside import BOTH, ServerAside, server_name
from support.fetch import fetch
from support.patience import wait_until
from tornado.ioloop import IOLoop
from tornado.web import RequestHandler

KIND = pytest.mark.parametrize("kind", BOTH, ids=server_name)


def fill(document: Document) -> None:
    """An app."""
    shown = Div(text="0", name="shown")
    slider = Slider(start=0, end=100, value=0, name="slider")
    slider.on_change("value", lambda attr, old, new: shown.update(text=str(new)))
    document.add_root(slider)
    document.add_root(shown)


class Greeting(RequestHandler):
    def get(self) -> None:
        self.write(f"{self.settings.get('greeting', 'hello')} {self.request.remote_ip}")


class Diary(LifecycleHandler):
    """Hooks that write down that they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._on_server_loaded = lambda context: self.lines.append("loaded")
        self._on_server_unloaded = lambda context: self.lines.append("unloaded")
        self._on_session_created = lambda context: self.lines.append("created")
        self._on_session_destroyed = lambda context: self.lines.append("destroyed")


@pytest.fixture(scope="module", params=BOTH, ids=server_name)
def aside(request: pytest.FixtureRequest) -> Iterator[ServerAside]:
    """One server of each kind for what changes nothing in it."""
    apps = {"/one": fill, "/two": Application(FunctionHandler(fill))}
    extra = [(r"/greet", Greeting)]
    kwargs = {"prefix": "some/where/", "extra_patterns": extra, "greeting": "good day", "address": "localhost"}
    with ServerAside(request.param, apps, http_server_kwargs={"xheaders": True}, **kwargs) as aside:
        yield aside


@KIND
@pytest.mark.parametrize("form", ["function", "application", "routes"])
def test_the_forms_in_which_apps_may_be_given(kind: type, form: str) -> None:
    """A function or an Application is at the root; a mapping has both by their routes."""
    application = Application(FunctionHandler(fill))
    apps: Any = {"function": fill, "application": application, "routes": {"/": fill, "/app": application}}[form]
    with ServerAside(kind, apps) as aside:
        assert fetch(f"{aside.url}/").status == 200
        assert fetch(f"{aside.url}/app").status == (200 if form == "routes" else 404)


def test_members(aside: ServerAside) -> None:
    """What the constructor was given, and the port that the kernel chose."""
    server = aside.server
    assert isinstance(server.port, int)
    assert server.port > 0
    assert (server.address, server.prefix, server.index) == ("localhost", "/some/where", None)
    assert isinstance(server.io_loop, IOLoop)


@KIND
@pytest.mark.parametrize(("given", "normal"), [("", ""), ("a", "/a"), ("/a", "/a"), ("/a/b/", "/a/b")])
def test_prefixes_are_normalised(kind: type, given: str, normal: str) -> None:
    """One slash in front and none behind."""
    with ServerAside(kind, fill, prefix=given) as aside:
        assert aside.server.prefix == normal
        assert fetch(f"{aside.url}{normal}/").status == 200


def test_an_unmodified_client_uses_a_session(aside: ServerAside) -> None:
    """`bokeh.client.pull_session` from another thread: a change, its callback, and the result back."""
    with pull_session(url=f"{aside.url}/some/where/one") as session:
        slider: Any = session.document.get_model_by_name("slider")
        slider.value = 7
        session.force_roundtrip()
        session.pull()  # Bokeh's client may lose a patch that comes while it waits for a reply
        shown: Any = session.document.get_model_by_name("shown")
        assert shown.text == "7"


def test_sessions_can_be_had(aside: ServerAside) -> None:
    """By app and id, of one app, and of all."""
    server = aside.server
    with pull_session(url=f"{aside.url}/some/where/one") as session:
        here = aside.call(server.get_session, "/one", session.id)
        assert here.id == session.id
        assert here.connection_count == 1
        assert not here.destroyed
        assert here.document.get_model_by_name("slider") is not None
        assert here in aside.call(server.get_sessions, "/one")
        assert here in aside.call(server.get_sessions)
        assert aside.call(server.get_sessions, "/two") == []


def test_a_session_that_is_not_there_is_an_error(aside: ServerAside) -> None:
    """An unknown app is a ValueError; an unknown session raises, too."""
    for act in (aside.server.get_session, aside.server.get_sessions):
        with pytest.raises(ValueError, match="/three"):
            aside.call(act, "/three", *(["id"] if act == aside.server.get_session else []))
    with pytest.raises(Exception, match=r"[Nn]o (such )?session"):
        aside.call(aside.server.get_session, "/one", "absent")


def test_extra_patterns_and_settings_reach_tornado(aside: ServerAside) -> None:
    """Handlers of the program answer under the prefix and see the keywords that are theirs alone."""
    answer = fetch(f"{aside.url}/some/where/greet", headers={"X-Real-Ip": "192.0.2.1"})
    assert answer.text == "good day 192.0.2.1"


def test_the_index_lists_the_apps(aside: ServerAside) -> None:
    """With two of them there is nowhere to redirect to."""
    answer = fetch(f"{aside.url}/some/where/")
    assert answer.status == 200
    assert "/some/where/one" in answer.text
    assert "/some/where/two" in answer.text


@KIND
@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [({}, 302), ({"redirect_root": False}, 200), ({"use_index": False}, 404)],
    ids=["redirected", "listed", "neither"],
)
def test_the_root_of_a_single_app(kind: type, kwargs: dict[str, bool], expected: int) -> None:
    """It leads to the app, unless an option says otherwise."""
    with ServerAside(kind, {"/only": fill}, **kwargs) as aside:
        answer = fetch(f"{aside.url}/")
        assert answer.status == expected
        if expected == 302:
            assert answer.headers["location"] == "/only"


@KIND
def test_an_index_of_ones_own(kind: type, tmp_path: Path) -> None:
    """A template gets the prefix and the apps."""
    page = tmp_path / "index.html"
    page.write_text("<p>{{ prefix }}: {{ ' '.join(items) }}</p>")
    with ServerAside(kind, {"/b": fill, "/a": fill}, index=str(page), prefix="p") as aside:
        assert aside.server.index == str(page)
        assert fetch(f"{aside.url}/p/").text == "<p>/p: /a /b</p>"


@KIND
def test_hooks_run_in_order(kind: type) -> None:
    """Loaded with the start, created and destroyed with the session, unloaded with the stop; each once."""
    diary = Diary()
    application = Application(FunctionHandler(fill), diary)
    quick = {"check_unused_sessions_milliseconds": 50, "unused_session_lifetime_milliseconds": 50}
    with ServerAside(kind, {"/": application}, **quick) as aside:
        wait_until(lambda: diary.lines == ["loaded"])
        with pull_session(url=f"{aside.url}/"):
            assert diary.lines == ["loaded", "created"]
        wait_until(lambda: diary.lines[2:] == ["destroyed"])
        assert aside.call(aside.server.get_sessions) == []
    assert diary.lines == ["loaded", "created", "destroyed", "unloaded"]


@KIND
def test_signed_ids(kind: type) -> None:
    """With a key an id of one's own is refused unless it is signed with it."""
    key = generate_secret_key().encode()
    with ServerAside(kind, fill, sign_sessions=True, secret_key=key, generate_session_ids=False) as aside:
        good = generate_session_id(secret_key=key, signed=True)
        assert fetch(f"{aside.url}/").status == 403
        assert fetch(f"{aside.url}/?bokeh-session-id=mine").status == 403
        assert fetch(f"{aside.url}/?bokeh-session-id={good}").status == 200


@KIND
def test_ids_made_by_others_without_a_signature(kind: type) -> None:
    """The server makes none itself, and takes any."""
    with ServerAside(kind, fill, generate_session_ids=False) as aside:
        assert fetch(f"{aside.url}/").status == 403
        assert fetch(f"{aside.url}/?bokeh-session-id=mine").status == 200


@KIND
def test_an_auth_provider(kind: type, tmp_path: Path) -> None:
    """Bokeh's own object with the hooks: who is not logged in is sent to log in."""
    module = tmp_path / "auth.py"
    module.write_text("def get_user(handler): return handler.get_cookie('user')\nlogin_url = '/login'\n")
    with ServerAside(kind, fill, auth_provider=AuthModule(str(module))) as aside:
        assert fetch(f"{aside.url}/").status == 302
        assert fetch(f"{aside.url}/", headers={"Cookie": "user=ada"}).status == 200


def refusal(kind: type) -> int | None:
    """The number of the error when the port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        aside = ServerAside(kind, fill, port=taken.getsockname()[1], address="127.0.0.1")
        with pytest.raises(OSError) as refused, aside:
            pass
    return refused.value.errno


@KIND
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # stock Bokeh's socket is not closed
def test_a_taken_port_is_an_os_error(kind: type) -> None:
    """Raised by the constructor, with the number that says so."""
    assert refusal(kind) == errno.EADDRINUSE
    gc.collect()


@KIND
def test_one_loop_is_not_for_several_processes(kind: type) -> None:
    """A RuntimeError that says so, before anything is bound or forked."""
    with pytest.raises(RuntimeError, match="num_procs"), ServerAside(kind, fill, num_procs=2):
        pass


@KIND
@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_alive_milliseconds": -1},
        {"check_unused_sessions_milliseconds": 0},
        {"unused_session_lifetime_milliseconds": 0},
        {"stats_log_frequency_milliseconds": 0},
        {"mem_log_frequency_milliseconds": -1},
        {"session_token_expiration": 0},
        {"websocket_max_message_size": 0},
        {"include_headers": ["A"], "exclude_headers": ["B"]},
        {"include_cookies": ["a"], "exclude_cookies": ["b"]},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_values_that_cannot_be(kind: type, wrong: dict[str, Any]) -> None:
    """A ValueError from the constructor, which gives the port up again."""
    with pytest.raises(ValueError), ServerAside(kind, fill, **wrong):
        pass


@KIND
def test_a_path_to_show_begins_with_a_slash(kind: type) -> None:
    """What does not is a ValueError."""
    with ServerAside(kind, fill) as aside, pytest.raises(ValueError, match="start with a /"):
        aside.server.show("app")


@KIND
def test_starting_twice_is_an_error(kind: type) -> None:
    """It has been started when one can try."""
    with ServerAside(kind, fill) as aside, pytest.raises((AssertionError, RuntimeError)):
        aside.call(aside.server.start)


@KIND
def test_unlisten_refuses_further_connections(kind: type) -> None:
    """The port is free for another."""
    with ServerAside(kind, fill) as aside:
        url = f"{aside.url}/"
        assert fetch(url).status == 200
        aside.call(aside.server.unlisten)
        with pytest.raises(OSError):
            fetch(url)
