"""A client's conversation about a document, with a real session at the other end of a wire that a test can cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bokeh.document import Document
from bokeh.io import doc
from bokeh.model import Model
from bokeh.models import Column, ColumnDataSource
from bokeh.models.widgets import Div, Slider
from support.outboxes import PlayedOutbox
from support.peers import fragments_of, in_loop, make_session, state_of

from aperture.client import backlog
from aperture.client.mirror import Mirror
from aperture.client.refusals import closed
from aperture.client.sync_protocol import Exchange, Phase
from aperture.client.timers import Agenda
from aperture.document import current
from aperture.errors import ClientError, MessageTooLarge, Overloaded, RequestFailed, ServerGarbled, ServerGone
from aperture.protocol import messages
from aperture.protocol.fragments import Assembler
from aperture.protocol.frames import FrameRun
from aperture.protocol.messages import FramedDocument, Message, Request
from aperture.worker.patch.inbound import receive
from aperture.worker.patch.viewer import Viewer
from aperture.worker.session.session import Session

LIMIT = 1_000_000


def parsed(run: FrameRun) -> list[Message]:
    """The messages of a run, as a client's assembler reads them."""
    assembler = Assembler(LIMIT)
    found = [assembler.feed(fragment) for fragment in fragments_of(run.plain)]
    return [message for message in found if message is not None]


class Client(PlayedOutbox):
    """One exchange, and a wire to a session: what is sent waits until the test carries it."""

    def __init__(self, session: Session, document: Document | None = None) -> None:
        self.sent: list[Request] = []
        self.arrived: list[Message] = []
        self.mirror = Mirror(
            document or Document(), lambda change: self.exchange.changed(change), Agenda(float, ignore)
        )
        self.exchange = Exchange(self.mirror, self.sent.append, lambda: self.exchange.flush(), LIMIT)
        self.connect(session)

    def connect(self, session: Session) -> None:
        self.session = session
        self.viewer = Viewer(self, "token", inline_pulls=False)
        session.attach(self.viewer)

    # The outbox of the session's viewer

    def send(self, run: FrameRun) -> None:
        self.arrived += parsed(run)

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(f"closed with {code}: {reason}")

    # What the test does

    def carry(self) -> None:
        """Take everything to where it belongs, until nothing is left."""
        while self.sent or self.arrived:
            self.carry_out()
            self.carry_in()

    def carry_out(self) -> None:
        sent, self.sent[:] = list(self.sent), []
        for request in sent:
            assembler = Assembler(LIMIT)
            fragments = [part if isinstance(part, str) else bytes(part) for part in request.fragments]
            *none, message = map(assembler.feed, fragments)
            assert not any(none)
            assert message is not None
            assert receive(self.session, self.viewer, message) is None

    def carry_in(self) -> None:
        arrived, self.arrived = self.arrived, []
        for message in arrived:
            self.exchange.receive(message)

    def pulled(self) -> Client:
        self.exchange.pull()
        self.carry()
        return self

    def cut(self, problem: ClientError | None = None) -> None:
        """Lose the connection and all that is on it."""
        self.session.detach(self.viewer)
        self.sent.clear()
        self.arrived.clear()
        self.exchange.cut_off(problem or ServerGone("cut"))

    def come_back(self, session: Session) -> None:
        """Have another connection, and make the documents equal."""
        self.connect(session)
        self.exchange.resume()
        self.carry()

    def find(self, model: Any) -> Any:
        found = self.mirror.document.get_model_by_id(model.id)
        assert found is not None
        return found

    def is_equal(self) -> bool:
        return state_of(self.mirror.document) == state_of(self.session.document)


def ignore() -> None:
    """A document without an agenda."""


def known_as(name: str, model: Any) -> Any:
    """The model under an id that another one has elsewhere; Bokeh does not let one choose both id and values."""
    model._id = name
    return model


async def change(session: Session, act: Callable[[], object]) -> None:
    """Change the session's document as its app would."""
    await session.with_document_locked(act)


def slider(value: int = 1) -> Slider:
    return Slider(start=0, end=100, value=value, name="slider")


@in_loop
async def test_a_patch_that_comes_before_an_answer_is_applied() -> None:
    """What arrives while an answer is awaited is not lost."""
    model = slider()
    session = make_session(model)
    client = Client(session).pulled()
    answer = client.exchange.ask_server_info()
    await change(session, lambda: model.update(value=5))
    client.carry_in()
    assert client.find(model).value == 5
    assert not answer.done
    client.carry()
    assert answer.done


@in_loop
async def test_patches_before_the_document_are_part_of_it() -> None:
    """They are dropped: the answer to the pull includes them."""
    model = slider()
    session = make_session(model)
    client = Client(session)
    client.exchange.receive(parsed(messages.patch(b'{"events":[{"kind":"nonsense"}]}', [], epoch=1, sequence=1))[0])
    client.pulled()
    assert client.is_equal()


@in_loop
async def test_a_lost_patch_is_noticed_and_the_document_pulled() -> None:
    """Afterwards it is the server's, in the same objects, whose callbacks ran."""
    model, other = slider(), Div(text="before")
    session = make_session(model, other)
    client = Client(session).pulled()
    mine, seen = client.find(model), []
    mine.on_change("value", lambda attr, old, new: seen.append((old, new)))
    await change(session, lambda: model.update(value=5))
    client.arrived.clear()
    await change(session, lambda: other.update(text="after"))
    client.carry()
    assert client.is_equal()
    assert client.find(model) is mine
    assert seen == [(1, 5)]


@in_loop
async def test_own_changes_are_no_gap() -> None:
    """The server counts them and does not send them back; nothing is pulled for it."""
    model, other = slider(), slider(2)
    session = make_session(model, other)
    client = Client(session).pulled()
    for value in range(10, 20):
        client.find(model).value = value
        client.carry_out()
    await change(session, lambda: other.update(value=77))
    client.carry_in()
    assert client.sent == []
    assert client.is_equal()


@in_loop
async def test_several_changes_are_one_patch() -> None:
    """In a batch, and what a hold of the document has held back."""
    session = make_session(slider())
    client = Client(session).pulled()
    mine: Any = client.mirror.document.roots[0]
    with client.exchange.batch():
        mine.update(value=2, title="two")
        mine.end = 50
    assert len(client.sent) == 1
    client.carry()
    assert client.is_equal()


@in_loop
async def test_a_callbacks_change_follows_its_cause() -> None:
    """The server ends with what the client has, also where a callback corrects the value."""
    model = slider()
    session = make_session(model)
    client = Client(session).pulled()
    mine = client.find(model)
    mine.on_change("value", lambda attr, old, new: mine.update(value=min(new, 10)))
    mine.value = 70
    client.carry()
    assert (mine.value, model.value) == (10, 10)


@in_loop
async def test_many_changes_wait_for_the_server_and_go_out_in_few_patches() -> None:
    """A bounded number is under way; what gathers meanwhile is one patch."""
    model = slider()
    session = make_session(model)
    seen: list[int] = []
    model.on_change("value", lambda attr, old, new: seen.append(new))
    client = Client(session).pulled()
    mine = client.find(model)
    count = 3 * backlog.MAX_UNANSWERED
    for value in range(1000, 1000 + count):
        mine.value = value
    assert len(client.sent) == backlog.MAX_UNANSWERED
    client.carry()
    assert seen == list(range(1000, 1000 + count))
    assert client.exchange.settled


@in_loop
async def test_too_much_that_waits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The assignment fails that would add to it, and a change too large for any message."""
    monkeypatch.setattr(backlog, "MAX_SIZE", 1000)
    session = make_session(Div(text=""))
    client = Client(session).pulled()
    mine: Any = client.mirror.document.roots[0]
    client.cut()
    mine.text = "a" * 800
    with pytest.raises(Overloaded):
        mine.text = "b" * 800
    with pytest.raises(MessageTooLarge):
        mine.text = "c" * LIMIT


@in_loop
async def test_what_is_under_way_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few large patches at a time, and they count against what may wait."""
    monkeypatch.setattr(backlog, "UNANSWERED_SIZE", 1000)
    monkeypatch.setattr(backlog, "MAX_SIZE", 3500)
    model = Div(text="")
    client = Client(make_session(model)).pulled()
    for letter in "abc":
        client.find(model).text = letter * 900
    assert len(client.sent) == 2
    with pytest.raises(Overloaded):
        client.find(model).text = "d" * 900
    client.carry()
    client.find(model).text = "e" * 900
    client.carry()
    assert model.text == "e" * 900
    assert client.is_equal()


@in_loop
async def test_a_change_that_found_no_room_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once all others have been answered, also those of a batch; until then the documents are not called equal."""
    monkeypatch.setattr(backlog, "MAX_SIZE", 1000)
    model = Div(text="")
    client = Client(make_session(model)).pulled()
    with client.exchange.batch():
        client.find(model).text = "a" * 800
        with pytest.raises(Overloaded):
            client.find(model).text = "b" * 800
    client.carry_out()
    assert not client.exchange.settled
    client.carry()
    assert client.find(model).text == model.text == "a" * 800
    assert client.exchange.settled
    with client.exchange.batch(), pytest.raises(Overloaded):
        client.find(model).text = "b" * 1001
    client.carry()
    assert client.find(model).text == "a" * 800


@in_loop
async def test_a_change_too_large_is_undone() -> None:
    """The server never gets it, so the document goes back to what the server has."""
    model = Div(text="small")
    client = Client(make_session(model)).pulled()
    with pytest.raises(MessageTooLarge):
        client.find(model).text = "c" * LIMIT
    client.carry()
    assert client.is_equal()


@in_loop
async def test_new_models_go_out_once_in_full() -> None:
    """And those that came from the server are only referred to."""
    root = Column(children=[slider()])
    session = make_session(root)
    client = Client(session).pulled()
    mine = client.find(root)
    mine.children = [*mine.children, Div(name="new", text="1")]
    assert str(client.sent[0].fragments[2]).count('"type":"object"') == 1
    mine.children[1].text = "2"
    assert "object" not in str(client.sent[1].fragments[2])
    client.carry()
    assert client.is_equal()
    await change(session, lambda: session.document.get_model_by_name("new").update(text="3"))  # type: ignore[union-attr]
    client.carry()
    assert client.is_equal()


@in_loop
async def test_after_a_reconnect_the_document_is_the_servers_and_unsent_changes_are_made_again() -> None:
    """What the other side changed is here, what was changed here is there, and the models are the same objects."""
    model, other = slider(), Div(text="before")
    session = make_session(model, other)
    client = Client(session).pulled()
    mine = client.find(model)
    mine.title = "sent, and never answered"
    client.cut()
    mine.value = 33
    await change(session, lambda: other.update(text="meanwhile"))
    client.connect(session)
    client.exchange.resume()
    client.carry()
    assert client.is_equal()
    assert (model.value, model.title, client.find(other).text) == (33, "sent, and never answered", "meanwhile")
    assert client.find(model) is mine


@pytest.mark.parametrize(("arrives", "rows"), [(True, [1, 2, 3]), (False, [1, 3])])
def test_rows_that_were_under_way_are_not_streamed_twice(arrives: bool, rows: list[int]) -> None:
    """Whether they arrived, the server's document tells; what was never sent is streamed on top of it."""

    @in_loop
    async def scenario() -> None:
        source = ColumnDataSource(data={"x": [1]})
        session = make_session(Column(name="holder", tags=[source]))
        client = Client(session).pulled()
        mine = client.find(source)
        mine.stream({"x": [2]})
        if arrives:
            client.carry_out()
        client.cut()
        mine.stream({"x": [3]})
        client.connect(session)
        client.exchange.resume()
        client.carry()
        assert list(source.data["x"]) == rows
        assert client.is_equal()

    scenario()


@in_loop
async def test_a_change_is_made_again_only_once() -> None:
    """If the connection is lost under it twice, it may be what ends the server; the caller gets the error."""
    model = slider()
    session = make_session(model)
    client = Client(session).pulled()
    client.find(model).title = "the end of the server"
    client.cut()
    client.find(model).value = 33
    client.connect(session)
    client.exchange.resume()
    client.carry_out()
    client.carry_in()
    assert len(client.sent) == 2, "both changes are made again"
    client.cut()
    client.find(model).end = 50
    client.come_back(session)
    assert isinstance(client.exchange.take_failure(), ServerGone)
    assert (model.title, model.value, model.end) == ("", 33, 50), "the second had not been sent before"
    assert client.is_equal()


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009])
def test_what_the_server_refuses_is_not_sent_again(code: int) -> None:
    """It has closed the connection because of something under way; the caller gets the error, and the rest goes on."""

    @in_loop
    async def scenario() -> None:
        model = slider()
        session = make_session(model)
        client = Client(session).pulled()
        client.find(model).title = "too much"
        problem = closed(code, "why")
        client.cut(problem)
        client.find(model).value = 33
        client.come_back(session)
        assert client.exchange.take_failure() is problem
        assert (model.title, model.value) == ("", 33)
        assert client.is_equal()

    scenario()


@in_loop
async def test_a_restarted_session_is_taken_over_in_place() -> None:
    """Models of the same id and type stay; those of another type, and those that are gone, do not."""
    client = Client(
        make_session(slider(), known_as("shared", Div(text="x")), known_as("gone", Div(text="only there")))
    ).pulled()
    kept = client.mirror.document.get_model_by_id("shared")  # type: ignore[arg-type]
    client.mirror.document.on_change(lambda event: None)
    client.cut()
    client.connect(make_session(known_as("shared", Div(text="y")), known_as("gone", Slider(start=0, end=1, value=0))))
    client.exchange.resume()
    client.carry()
    assert client.is_equal()
    assert client.mirror.document.roots[0] is kept
    client.mirror.document.roots[1].value = 1  # type: ignore[attr-defined]
    client.carry()
    assert client.is_equal()


@in_loop
async def test_properties_that_the_server_does_not_have_are_reset() -> None:
    """And listeners are called."""
    model = Div(text="x", visible=False)
    session = make_session(model)
    client = Client(session).pulled()
    mine, seen = client.find(model), []
    mine.on_change("visible", lambda attr, old, new: seen.append(new))
    client.cut()
    session = make_session(known_as(model.id, Div(text="x")))
    client.connect(session)
    client.exchange.resume()
    client.carry()
    assert (mine.visible, seen) == (True, [True])
    assert client.is_equal()


@in_loop
async def test_a_pull_with_unsent_changes_loses_none() -> None:
    """They are sent before it, or made again after it."""
    model = slider()
    session = make_session(model)
    client = Client(session).pulled()
    mine = client.find(model)
    with client.exchange.batch():
        mine.value = 9
        client.exchange.pull()
        mine.title = "during"
        client.carry()
    client.carry()
    assert (model.value, model.title) == (9, "during")
    assert client.is_equal()


@in_loop
async def test_a_pushed_document_is_the_servers() -> None:
    """And is followed from then on, by both sides."""
    session = make_session(slider())
    document = Document()
    document.add_root(Div(text="pushed"))
    client = Client(session, document)
    answer = client.exchange.push()
    client.carry()
    answer.result()
    assert client.is_equal()
    document.roots[0].text = "again"  # type: ignore[attr-defined]
    client.carry()
    await change(session, lambda: session.document.set_title("theirs"))
    client.carry()
    assert (document.title, client.is_equal()) == ("theirs", True)


@in_loop
async def test_a_push_that_was_cut_off_is_made_again() -> None:
    """The document is its pusher's, whatever is in the session; what was changed meanwhile is in it."""
    session = make_session(slider())
    document = Document()
    document.add_root(Div(text="pushed"))
    client = Client(session, document)
    client.exchange.push()
    client.cut()
    document.roots[0].text = "meanwhile"  # type: ignore[attr-defined]
    client.come_back(session)
    assert [root.text for root in session.document.roots] == ["meanwhile"]  # type: ignore[attr-defined]
    assert client.is_equal()


@in_loop
async def test_a_pushed_document_is_pushed_into_a_session_that_does_not_have_it() -> None:
    """The server was restarted. Waiting for the documents to be equal waits for that, too."""
    document = Document()
    document.add_root(Div(text="pushed"))
    client = Client(make_session(slider()), document)
    client.exchange.push()
    client.carry()
    client.cut()
    document.roots[0].text = "meanwhile"  # type: ignore[attr-defined]
    session = make_session(slider())
    client.connect(session)
    answer = client.exchange.resume()
    client.carry_out()
    client.carry_in()
    assert not answer.done
    client.carry()
    answer.result()
    assert [root.text for root in session.document.roots] == ["meanwhile"]  # type: ignore[attr-defined]
    assert client.is_equal()


@in_loop
async def test_a_pushed_document_that_is_still_there_is_the_servers() -> None:
    """Another client, or the app, may have changed it since."""
    session = make_session(slider())
    document = Document()
    document.add_root(Div(text="pushed"))
    client = Client(session, document)
    client.exchange.push()
    client.carry()
    client.cut()
    await change(session, lambda: session.document.roots[0].update(text="theirs"))
    client.come_back(session)
    assert document.roots[0].text == "theirs"  # type: ignore[attr-defined]


def two_clients_of(document: Document) -> tuple[Client, Client]:
    one, two = Client(make_session(slider()), document), Client(make_session(slider()), document)
    for client in (one, two):
        client.exchange.push()
        client.carry()
    return one, two


@in_loop
async def test_one_document_in_two_sessions_is_followed_by_both() -> None:
    """New models go to both in full, from here and from either of them, and one end leaves the other alone."""
    document = Document()
    document.add_root(Column())
    one, two = two_clients_of(document)
    root: Any = document.roots[0]
    root.children = [Div(text="here")]
    one.carry()
    two.carry()
    theirs: Any = one.session.document.roots[0]
    await change(one.session, lambda: theirs.update(children=[*theirs.children, Div(name="there", text="there")]))
    one.carry()
    two.carry()
    assert one.is_equal()
    assert two.is_equal()
    one.exchange.close()
    root.children[0].text = "later"
    two.carry()
    assert two.is_equal()
    two.exchange.close()
    root.children[0].text = "last"
    assert two.sent == []


@in_loop
async def test_one_sessions_trouble_is_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that the one cannot take reaches the other, and still raises."""
    document = Document()
    document.add_root(Div(text="small"))
    one, two = two_clients_of(document)
    monkeypatch.setattr(one.exchange, "_max_message_size", 100)
    with pytest.raises(MessageTooLarge):
        document.roots[0].text = "a" * 200  # type: ignore[attr-defined]
    two.carry_out()
    assert two.session.document.roots[0].text == "a" * 200  # type: ignore[attr-defined]


@pytest.mark.parametrize("cause", ["a reconnect", "a gap"])
def test_a_document_that_cannot_be_had_ends_the_connection(cause: str) -> None:
    """There is no caller to report it to, so the next connection must try."""

    @in_loop
    async def scenario() -> None:
        session = make_session(slider())
        client = Client(session).pulled()
        if cause == "a gap":
            client.exchange.overrun()
        else:
            client.cut()
            client.connect(session)
            client.exchange.resume()
        (request,) = client.sent
        with pytest.raises(RequestFailed) as found:
            client.exchange.receive(parsed(messages.error(request.msgid, "no"))[0])
        client.cut(found.value)
        client.come_back(session)
        assert client.is_equal()

    scenario()


@in_loop
async def test_a_refused_change_is_told_and_put_right() -> None:
    """The server's word counts, and the next caller gets the error, once."""
    model = slider()
    session = make_session(model)
    client = Client(session).pulled()
    mine = client.find(model)
    with client.exchange.batch():
        mine.value = 5
    request = client.sent.pop()
    client.exchange.receive(parsed(messages.error(request.msgid, "no"))[0])
    client.carry()
    assert client.is_equal()
    failure = client.exchange.take_failure()
    assert isinstance(failure, RequestFailed)
    assert "no" in str(failure)
    assert client.exchange.take_failure() is None


@in_loop
async def test_a_patch_that_cannot_be_applied_is_cured_by_a_pull() -> None:
    """It names a model that is not here: something is missing."""
    model = slider()
    session = make_session(model)
    client = Client(session).pulled()
    content = b'{"events":[{"kind":"ModelChanged","model":{"id":"absent"},"attr":"value","new":3}]}'
    client.exchange.receive(parsed(messages.patch(content, [], epoch=1, sequence=1))[0])
    assert client.exchange.phase is Phase.FETCHING
    client.carry()
    assert client.is_equal()


@in_loop
@pytest.mark.usefixtures("curdoc_is_put_back")
async def test_a_failing_callback_is_nobody_elses_trouble(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the rest of the patch is there, and nothing is pulled."""
    model, other = slider(), Div(text="before")
    session = make_session(model, other)
    client = Client(session).pulled()
    client.find(model).on_change("value", lambda attr, old, new: 1 / 0)

    def both() -> None:
        model.update(value=3)
        other.update(text="after")

    await change(session, both)
    client.carry_in()
    assert client.sent == []
    assert client.is_equal()
    assert "ZeroDivisionError" in caplog.text


@pytest.fixture
def curdoc_is_put_back() -> Iterator[None]:
    current.install()  # as a session does
    before = list(doc._PATCHED_CURDOCS)
    yield
    assert before == list(doc._PATCHED_CURDOCS)


CONFIG = b'"config":{"type":"object","name":"DocumentConfig","id":"c"}'


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b'{"doc":[]}',
        b'{"doc":{"title":1,"roots":[],%b}}' % CONFIG,
        b'{"doc":{"title":"t","roots":[]}}',
        b'{"doc":{"title":"t","roots":[{"type":"object","name":"NoSuchModel","id":"1"}],%b}}' % CONFIG,
        b'{"doc":{"title":"t","roots":[{"id":"1"}],%b}}' % CONFIG,
        b'{"doc":{"title":"t","roots":[3],%b}}' % CONFIG,
    ],
)
def test_a_document_that_is_none_is_garbled(content: bytes) -> None:
    """Unknown models among it: this end cannot make it."""

    @in_loop
    async def scenario() -> None:
        client = Client(make_session(slider()))
        client.exchange.pull()
        (request,) = client.sent
        reply = messages.pull_reply(request.msgid, FramedDocument.of(content, []), epoch=1, sequence=0)
        with pytest.raises(ServerGarbled):
            client.exchange.receive(parsed(reply)[0])

    scenario()


@in_loop
async def test_what_no_server_says_is_garbled() -> None:
    """A request, and an answer of the wrong kind; an answer to nothing is passed over."""
    client = Client(make_session(slider()))
    client.exchange.receive(parsed(messages.ok("not asked"))[0])
    with pytest.raises(ServerGarbled):
        client.exchange.receive(Message("1", "PUSH-DOC", None, {}, {}))
    client.exchange.pull()
    with pytest.raises(ServerGarbled):
        client.exchange.receive(parsed(messages.ok(client.sent[0].msgid))[0])


def test_callbacks_from_before_the_connection_keep_their_order() -> None:
    """Bokeh keeps them in a set."""
    document = Document()
    entries = [document.add_next_tick_callback(lambda: None) for _ in range(60)]
    added: list[Any] = []

    class Noting(Agenda):
        def add(self, entry: Any) -> None:
            added.append(entry)

    Mirror(document, lambda change: None, Noting(float, ignore)).attach()
    assert added == entries


@in_loop
async def test_after_the_end_the_document_is_left_alone() -> None:
    """Its owner may change it, and nothing is kept or sent."""
    model = slider()
    client = Client(make_session(model)).pulled()
    mine = client.find(model)
    client.exchange.close()
    client.exchange.close()
    mine.value = 50
    assert client.sent == []
    assert model.value == 1


@in_loop
async def test_a_model_that_is_brought_back_is_the_same_on_both_sides() -> None:
    """Taken away, changed and brought back in one go, by the app or here, it is what it was changed to."""

    def act(div: Any, column: Any) -> None:
        div.text = "loading"
        column.children = []
        div.text = "done"
        column.children = [div]

    for here in (False, True):
        div = Div(text="before")
        column = Column(children=[div])
        session = make_session(column)
        client = Client(session)
        client.exchange.pull()
        client.carry()
        if here:
            copies: list[Any] = [client.mirror.document.get_model_by_id(model.id) for model in (div, column)]
            with client.exchange.batch():
                act(*copies)
        else:
            await session.with_document_locked(act, div, column)
        client.carry()
        assert client.exchange.failure is None
        theirs: Any = session.document.roots[0]
        assert theirs.children[0].text == "done"
        assert state_of(client.mirror.document) == state_of(session.document)


@in_loop
async def test_a_change_of_the_configuration_is_taken_over() -> None:
    """A server may tell of one, as BokehJS does from 3.10 on; the names are those of the document that was pulled."""
    client = Client(make_session(Div(text="text"))).pulled()
    config = client.mirror.document.config
    assert config.notifications is not None
    changes: list[tuple[Model, str, bytes]] = [
        (config, "notify_connection_status", b"false"),
        (config.notifications, "name", b'"mine"'),
    ]
    for sequence, (model, attr, value) in enumerate(changes, start=1):
        event = b'{"kind":"ModelChanged","model":{"id":"%b"},"attr":"%b","new":%b}'
        content = b'{"events":[%b]}' % (event % (model.id.encode(), attr.encode(), value))
        client.exchange.receive(parsed(messages.patch(content, [], epoch=1, sequence=sequence))[0])
    assert config.notify_connection_status is False
    assert config.notifications.name == "mine"
    assert client.mirror.document.config is config
