"""What a client and a server say to each other about one document, without I/O: requests, answers, patches, pulls.

Both faces of the client are pumps around this. They give it the messages that arrive, in order, and put what it sends
on the wire. The rules:

- A patch is applied when it comes, whatever answer is awaited. Until the first document is here, and from the moment
  that something is known to be missing until the document has been pulled anew, patches are dropped: the answer to the
  pull includes them.
- Changes made here go out in order, as many in one patch as have gathered. While much is under way they gather; above a
  bound the assignment that would add to them fails (`aperture.client.backlog`). What failed so is in this document and
  never in the server's, so the document is pulled anew as soon as everything else has been answered.
- When the connection was lost and there is a new one, the document becomes the server's. Then the changes that were
  never sent are made again on it and sent. So are those that were sent and not answered, if making them twice is the
  same as once (attributes and titles), unless the server has ended the connection for what it was sent, or it was lost
  under them twice. The others (streams, patches of columns, messages, roots) are in the server's document, if they
  arrived.
- A document that was pushed belongs to this side. It is pushed again if the connection was lost before the answer, and
  if the session that is there afterwards has none of its roots: then it is another one under the same id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto

from aperture.client.backlog import Backlog
from aperture.client.mirror import Change, Mirror
from aperture.client.refusals import is_about_what_was_sent
from aperture.client.sequence import Place, Step
from aperture.errors import ClientError, MessageTooLarge, Overloaded, RequestFailed, ServerGarbled, ServerGone
from aperture.protocol import messages
from aperture.protocol.codec import join_events
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message, Request

__all__ = ["Answer", "Exchange", "Phase"]

log = logging.getLogger(__name__)


class Phase(Enum):
    """What the document here is to the server's."""

    APART = auto()
    """It has never been the server's."""
    FETCHING = auto()
    """The answer to a pull or a push is awaited; patches before it are part of it."""
    SHARED = auto()
    """It is the server's, but for what is under way."""
    CUT_OFF = auto()
    """It was, and the connection is lost."""


_TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.APART: frozenset({Phase.FETCHING, Phase.APART}),
    Phase.FETCHING: frozenset({Phase.FETCHING, Phase.SHARED, Phase.CUT_OFF, Phase.APART}),
    Phase.SHARED: frozenset({Phase.FETCHING, Phase.CUT_OFF}),
    Phase.CUT_OFF: frozenset({Phase.FETCHING, Phase.CUT_OFF}),
}


class Answer:
    """What becomes of a request."""

    __slots__ = ("_message", "_problem", "done", "when_done")

    def __init__(self) -> None:
        self.done = False
        self.when_done: Callable[[], None] | None = None
        self._message: Message | None = None
        self._problem: ClientError | None = None

    def settle(self, outcome: Message | ClientError) -> None:
        """It is answered, or never will be."""
        if self.done:
            return
        self.done = True
        if isinstance(outcome, Message):
            self._message = outcome
        else:
            self._problem = outcome
        if self.when_done is not None:
            self.when_done()

    def result(self) -> Message:
        """The answer.

        Raises:
            ClientError: there is none, or it is an error.
        """
        if self._problem is not None:
            raise self._problem
        if self._message is None:
            raise AssertionError("asked before it was done")
        return self._message


@dataclass(frozen=True, slots=True)
class _Fetch:
    """A request whose answer makes the documents equal.

    Args:
        msgid: of the request.
        answer: what becomes of it.
        asked: whether somebody wanted it; otherwise nobody would hear of its failure.
        resumes: whether it is the first of a connection that follows another one.
    """

    msgid: str
    answer: Answer
    asked: bool
    resumes: bool


class Exchange:
    """One session's conversation, over all its connections. Calls must be serialised.

    Args:
        mirror: the document.
        send: puts a request on the wire; called only while there is a connection.
        wake: called when there is something to `flush`.
        max_message_size: bytes.
    """

    def __init__(
        self, mirror: Mirror, send: Callable[[Request], None], wake: Callable[[], None], max_message_size: int
    ) -> None:
        self.mirror = mirror
        self.phase = Phase.APART
        self.failure: ClientError | None = None
        """What became of a change that nobody waited for; for whoever asks next."""
        self.patches_answered = 0
        self._send = send
        self._wake = wake
        self._max_message_size = max_message_size
        self._place = Place()
        self._answers: dict[str, tuple[str, Answer]] = {}
        """Requests that wait: the type of the answer, and where it goes."""
        self._backlog = Backlog()
        self._fetch: _Fetch | None = None
        """The last one that was sent; the answer to an earlier one comes too late."""
        self._pushing = False
        """A push has not been answered, over however many connections."""
        self._ours = False
        """The document is what was pushed."""
        self._astray = False
        """A change is in this document that the server will never get."""
        self._losses = 0
        """Of the change that is being made again."""
        self._batches = 0
        self._last_call = False

    # Changes made here

    def has_room_for(self, change: Change) -> bool:
        """Whether `changed` would not be `Overloaded` by it."""
        return self._backlog.has_room_for(change)

    def changed(self, change: Change) -> None:
        """Take a change of the document.

        Raises:
            MessageTooLarge: it alone is too large for a message.
            Overloaded: too much waits already.
        """
        if change.size > self._max_message_size:
            self.strayed()
            raise MessageTooLarge(f"a change of {change.size} bytes; {self._max_message_size} are allowed")
        if not self.has_room_for(change):
            self.strayed()
            raise Overloaded(f"{self._backlog.size} bytes of changes wait for the server already")
        change.losses = self._losses
        self._backlog.add(change)
        if not self._batches:
            self._wake()

    def strayed(self) -> None:
        """The document has changed in a way that the server will never hear of: put it right when there is time."""
        self._astray = True
        if not self._batches:
            self._wake()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Changes made meanwhile go out together, also if the block fails: they have been made."""
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1
            if not self._batches and (self._backlog.waiting or self._astray):
                self._wake()

    def flush(self) -> None:
        """Send what waits, as far as that may be sent now."""
        backlog = self._backlog
        while backlog.waiting and self.ready_to_send:
            batch = backlog.next_batch(self._max_message_size)
            request = messages.patch_request(*join_events(change.encoded for change in batch))
            backlog.sent(request.msgid, batch)
            self._request(request, MessageType.OK)
        if self._astray and self.ready_to_send and not backlog.under_way:
            self._refetch()

    def last_call(self) -> None:
        """The session is about to end: send what waits, also from within a batch."""
        self._last_call = True
        self.flush()

    @property
    def ready_to_send(self) -> bool:
        return self.phase is Phase.SHARED and (self._last_call or not self._batches) and self._backlog.may_send

    @property
    def settled(self) -> bool:
        """Whether the server has answered all that was changed here."""
        backlog = self._backlog
        return self.phase is Phase.SHARED and not (backlog.waiting or backlog.under_way or self._astray)

    @property
    def unsent(self) -> int:
        """How many changes have not been sent, though there is a session to send them to."""
        return 0 if self.phase is Phase.APART else self._backlog.unsent

    # Requests

    def pull(self) -> Answer:
        """Ask for the document, which becomes this one's content. What was changed here before is sent before."""
        return self._pull(asked=True)

    def _pull(self, *, asked: bool, resumes: bool = False) -> Answer:
        if self._fetch is None:
            self._astray = False
            self.flush()
            return self._fetch_with(messages.pull_request(), MessageType.PULL_DOC_REPLY, asked=asked, resumes=resumes)
        return self._fetch.answer  # nothing has been sent since

    def push(self) -> Answer:
        """Make the server's document what this one is.

        Raises:
            MessageTooLarge: it does not fit into a message.
        """
        if self._pushing and self._fetch is not None:
            return self._fetch.answer  # what was changed since follows
        return self._push(asked=True)

    def _push(self, *, asked: bool, answer: Answer | None = None) -> Answer:
        content, buffers = self.mirror.encoded_document()
        size = len(content) + sum(len(buffer.data) for buffer in buffers)
        if size > self._max_message_size:
            raise MessageTooLarge(f"the document has {size} bytes; {self._max_message_size} are allowed")
        self._backlog.forget()  # all of it is in the document
        self._astray = False
        self.mirror.pushed()
        self.mirror.attach()
        self._pushing = True
        return self._fetch_with(messages.push(content, buffers), MessageType.OK, asked=asked, answer=answer)

    def ask_server_info(self) -> Answer:
        """Ask for versions, and so whether the server still answers."""
        return self._request(messages.server_info_request(), MessageType.SERVER_INFO_REPLY)

    def _fetch_with(
        self, request: Request, expected: str, *, asked: bool, resumes: bool = False, answer: Answer | None = None
    ) -> Answer:
        self._enter(Phase.FETCHING)
        answer = answer or Answer()
        self._fetch = _Fetch(request.msgid, answer, asked, resumes)
        self._answers[request.msgid] = (expected, answer)
        self._send(request)
        return answer

    def _request(self, request: Request, expected: str) -> Answer:
        answer = Answer()
        self._answers[request.msgid] = (expected, answer)
        self._send(request)
        return answer

    # What arrives

    def receive(self, message: Message) -> None:
        """Take a message of the server's.

        Raises:
            ServerGarbled: nothing that it could say here.
            ClientError: the document could not be made the server's, and nobody else is told so.
        """
        if message.reqid is not None:
            self._receive_answer(message, message.reqid)
        elif message.msgtype == MessageType.PATCH_DOC:
            self._receive_patch(message)
        else:
            raise ServerGarbled(f"the server sent {message.msgtype[:40]} without being asked")

    def _receive_patch(self, message: Message) -> None:
        if self.phase is not Phase.SHARED:
            return
        match self._place.step(message.metadata, len(self._backlog.under_way)):
            case Step.KNOWN:
                return
            case Step.GAP:
                log.warning("patches of the session were lost on their way; pulling its document anew")
                self._refetch()
                return
        try:
            self.mirror.apply(message)
        except Exception as problem:
            log.warning("a patch cannot be applied (%s); pulling the document anew", problem)
            self._refetch()

    def overrun(self) -> None:
        """Patches were dropped before they came here, because too many waited."""
        if self.phase is Phase.SHARED:
            self._refetch()

    def _refetch(self) -> None:
        """Pull without anybody waiting for it. The server has what was sent before: its answer comes behind that."""
        self._backlog.keep_for_later()
        self._pull(asked=False)

    def _receive_answer(self, message: Message, reqid: str) -> None:
        expected, answer = self._answers.get(reqid, (None, None))
        if answer is None or expected is None:
            log.debug("the server answered what nobody asked: %s", message.msgtype)
            return
        del self._answers[reqid]
        try:
            self._take_answer(message, reqid, expected, answer)
        except ClientError as problem:
            answer.settle(problem)
            raise

    def _take_answer(self, message: Message, reqid: str, expected: str, answer: Answer) -> None:
        was_patch = self._backlog.answered(reqid)
        if was_patch:
            self.patches_answered += 1
            self._place.answered()
        if message.msgtype == MessageType.ERROR:
            self._failed(message, was_patch, answer)
        elif message.msgtype != expected:
            raise ServerGarbled(f"the server answered with {message.msgtype[:40]} where {expected} was due")
        else:
            if was_patch:
                self.flush()
            elif self._fetch is not None and self._fetch.msgid == reqid:
                self._fetched(message, self._fetch)
            if self._fetch is None or self._fetch.answer is not answer:
                answer.settle(message)

    def _fetched(self, message: Message, fetch: _Fetch) -> None:
        self._fetch = None
        if message.msgtype == MessageType.PULL_DOC_REPLY:
            if fetch.resumes and self._ours and not self.mirror.shares_roots_with(message):
                log.warning("the session is there no more; pushing its document into the one that is in its place")
                self._push(asked=False, answer=fetch.answer)
                return
            self._backlog.keep_for_later()  # or it would be overwritten here and not there
            self._astray = False
            self._place.move(message.metadata)
            self.mirror.replace(message)
            self.mirror.attach()
        else:
            self._pushing, self._ours = False, True
            self._place.forget()
        self._enter(Phase.SHARED)
        self._make_again()
        self.flush()

    def _make_again(self) -> None:
        for change in self._backlog.take_again():
            self._losses = change.losses
            self.mirror.make_again(change)
        self._losses = 0

    def _failed(self, message: Message, was_patch: bool, answer: Answer) -> None:
        content = message.content if isinstance(message.content, dict) else {}
        problem = RequestFailed(f"the server answered: {content.get('text') or 'an error without a text'}")
        if was_patch:
            # Nobody knows how much of it was done, so the server's document must tell.
            log.warning("a change that was made here has failed: %s", problem)
            self.failure = self.failure or problem
            if self.phase is Phase.SHARED:
                self._refetch()
        elif self._fetch is not None and self._fetch.answer is answer:
            if not self._fetch.asked:
                raise problem  # there is no document, so this connection is of no use
            self._fetch, self._pushing = None, False
            self._enter(Phase.APART)
        answer.settle(problem)

    # Connections

    def cut_off(self, problem: ClientError) -> None:
        """The connection is lost: nobody will be answered any more, and what was changed here is kept."""
        answers, self._answers = self._answers, {}
        self._fetch = None
        self._lose_what_is_under_way(problem)
        self._place.forget()
        if self.phase is not Phase.APART:
            self._enter(Phase.CUT_OFF)
        for _, answer in answers.values():
            answer.settle(problem)

    def _lose_what_is_under_way(self, problem: ClientError) -> None:
        refused = is_about_what_was_sent(problem)
        if refused:
            self._pushing = False
        dropped = self._backlog.lost(refused=refused)
        if not dropped:
            return
        log.warning("changes of this side that are not made again: %d (%s)", len(dropped), problem)
        if not refused:
            problem = ServerGone(f"the connection was lost twice while the same changes were under way: {problem}")
        self.failure = self.failure or problem

    def resume(self) -> Answer:
        """There is a connection again: make the documents equal, and make again what the server has not had."""
        if self._pushing:
            return self._push(asked=False)
        self._backlog.keep_for_later()
        return self._pull(asked=False, resumes=True)

    def take_failure(self) -> ClientError | None:
        """What became of a change that nobody waited for, once."""
        failure, self.failure = self.failure, None
        return failure

    def close(self) -> None:
        """Leave the document to whoever has it."""
        self.mirror.detach()
        self._backlog.forget()

    def _enter(self, phase: Phase) -> None:
        if phase not in _TRANSITIONS[self.phase]:
            raise AssertionError(f"{self.phase.name} does not become {phase.name}")
        self.phase = phase
