"""The client's side of synchronising one document with a server, without I/O: requests, answers, patches, pulls.

The asynchronous and the blocking session are I/O adapters around this. They feed it the received messages, in order,
and write what it sends. The rules:

- A patch is applied when it arrives, also while an answer is awaited. Before the first document, and from the detection
  of a gap until the document has been pulled again, patches are dropped: the answer to the pull includes them.
- Local changes are sent in order, as many in one patch as have gathered. They gather while the bound of patches in
  flight is reached; above a second bound the assignment that would add to them fails (`aperture.client.backlog`). A
  change that failed so is in this document and never in the server's, so the document is pulled again as soon as
  everything else has been answered.
- After a reconnect the document takes the server's state. Then the changes that were never sent are applied again and
  sent. So are those in flight, if they are idempotent (attributes and titles), unless the server closed the connection
  because of a message, or the connection was lost under them twice. The others (streams, patches of columns, messages,
  roots) are in the server's document, if they arrived.
- A pushed document belongs to this side. It is pushed again if the connection was lost before the answer, or if the
  session after a reconnect has none of its roots: then it is a new session under the same id.
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
from aperture.client.sequence import Position, Step
from aperture.errors import ClientError, MessageTooLarge, Overloaded, RequestFailed, ServerGarbled, ServerGone
from aperture.protocol import messages
from aperture.protocol.codec import join_events
from aperture.protocol.message_type import MessageType
from aperture.protocol.messages import Message, Request

__all__ = ["Answer", "Exchange", "Phase"]

log = logging.getLogger(__name__)


class Phase(Enum):
    """How the local document relates to the server's."""

    APART = auto()
    """They were never equal."""
    FETCHING = auto()
    """The answer to a pull or a push is awaited; it includes the patches before it."""
    SHARED = auto()
    """They are equal, but for changes in flight."""
    CUT_OFF = auto()
    """They were equal, and the connection is lost."""


_TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.APART: frozenset({Phase.FETCHING, Phase.APART}),
    Phase.FETCHING: frozenset({Phase.FETCHING, Phase.SHARED, Phase.CUT_OFF, Phase.APART}),
    Phase.SHARED: frozenset({Phase.FETCHING, Phase.CUT_OFF}),
    Phase.CUT_OFF: frozenset({Phase.FETCHING, Phase.CUT_OFF}),
}


class Answer:
    """The outcome of a request."""

    __slots__ = ("_message", "_problem", "done", "when_done")

    def __init__(self) -> None:
        self.done = False
        self.when_done: Callable[[], None] | None = None
        self._message: Message | None = None
        self._problem: ClientError | None = None

    def settle(self, outcome: Message | ClientError) -> None:
        """Set the answer, or the reason why there will be none. Only the first call counts."""
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
        answer: its outcome.
        asked: whether a caller waits for it; if not, its failure ends the connection.
        resumes: whether it is the first after a reconnect.
    """

    msgid: str
    answer: Answer
    asked: bool
    resumes: bool


class Exchange:
    """The synchronisation of one session, over all its connections. Calls must be serialised.

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
        """The failure of a change, until `take_failure` fetches it: no caller waits for a change."""
        self.patches_answered = 0
        self._send = send
        self._wake = wake
        self._max_message_size = max_message_size
        self._position = Position()
        self._answers: dict[str, tuple[str, Answer]] = {}
        """Requests in flight, by message id: the expected type of the answer, and its outcome."""
        self._backlog = Backlog()
        self._fetch: _Fetch | None = None
        """The last one that was sent; answers to earlier ones are ignored."""
        self._pushing = False
        """A push is not answered yet, even after reconnects."""
        self._ours = False
        """The document was pushed, and so belongs to this side."""
        self._diverged = False
        """This document has a change that the server will never get."""
        self._losses = 0
        """The losses of the change that is being made again."""
        self._batches = 0
        self._last_call = False

    # Changes made here

    def has_room_for(self, change: Change) -> bool:
        """Whether `changed` would accept it, and not raise `Overloaded`."""
        return self._backlog.has_room_for(change)

    def changed(self, change: Change) -> None:
        """Take a change of the document.

        Raises:
            MessageTooLarge: it alone is too large for a message.
            Overloaded: too many changes wait already.
        """
        if change.size > self._max_message_size:
            self.diverged()
            raise MessageTooLarge(f"a change of {change.size} bytes; {self._max_message_size} are allowed")
        if not self.has_room_for(change):
            self.diverged()
            raise Overloaded(f"{self._backlog.size} bytes of changes wait for the server already")
        change.losses = self._losses
        self._backlog.add(change)
        if not self._batches:
            self._wake()

    def diverged(self) -> None:
        """Note a change that the server will never get: the document is pulled when all other changes are answered."""
        self._diverged = True
        if not self._batches:
            self._wake()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Send the changes of the block together, also if the block raises: the document has them."""
        self._batches += 1
        try:
            yield
        finally:
            self._batches -= 1
            if not self._batches and (self._backlog.waiting or self._diverged):
                self._wake()

    def flush(self) -> None:
        """Send waiting changes, up to the bound of patches in flight."""
        backlog = self._backlog
        while backlog.waiting and self.ready_to_send:
            batch = backlog.next_batch(self._max_message_size)
            request = messages.patch_request(*join_events(change.encoded for change in batch))
            backlog.sent(request.msgid, batch)
            self._request(request, MessageType.OK)
        if self._diverged and self.ready_to_send and not backlog.in_flight:
            self._refetch()

    def last_call(self) -> None:
        """Send waiting changes before the session ends, also from within a batch."""
        self._last_call = True
        self.flush()

    @property
    def ready_to_send(self) -> bool:
        return self.phase is Phase.SHARED and (self._last_call or not self._batches) and self._backlog.may_send

    @property
    def settled(self) -> bool:
        """Whether the server has answered all local changes."""
        backlog = self._backlog
        return self.phase is Phase.SHARED and not (backlog.waiting or backlog.in_flight or self._diverged)

    @property
    def unsent(self) -> int:
        """How many changes wait to be sent to the session; 0 before there is one."""
        return 0 if self.phase is Phase.APART else self._backlog.unsent

    # Requests

    def pull(self) -> Answer:
        """Request the document, whose content replaces this one's. Waiting changes are sent first."""
        return self._pull(asked=True)

    def _pull(self, *, asked: bool, resumes: bool = False) -> Answer:
        if self._fetch is None:
            self._diverged = False
            self.flush()
            return self._fetch_with(messages.pull_request(), MessageType.PULL_DOC_REPLY, asked=asked, resumes=resumes)
        return self._fetch.answer  # no change was sent since: its answer is as current as a new one

    def push(self) -> Answer:
        """Replace the server's document by this one.

        Raises:
            MessageTooLarge: it does not fit into a message.
        """
        if self._pushing and self._fetch is not None:
            return self._fetch.answer  # later changes follow as patches
        return self._push(asked=True)

    def _push(self, *, asked: bool, answer: Answer | None = None) -> Answer:
        content, buffers = self.mirror.encoded_document()
        size = len(content) + sum(len(buffer.data) for buffer in buffers)
        if size > self._max_message_size:
            raise MessageTooLarge(f"the document has {size} bytes; {self._max_message_size} are allowed")
        self._backlog.forget()  # the pushed document includes all waiting changes
        self._diverged = False
        self.mirror.pushed()
        self.mirror.attach()
        self._pushing = True
        return self._fetch_with(messages.push(content, buffers), MessageType.OK, asked=asked, answer=answer)

    def ask_server_info(self) -> Answer:
        """Request the server's versions, which also shows whether it still answers."""
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
        """Process a message of the server.

        Raises:
            ServerGarbled: the message is invalid at this point.
            ClientError: a pull or push without a waiting caller has failed, so the connection is of no use.
        """
        if message.reqid is not None:
            self._receive_answer(message, message.reqid)
        elif message.msgtype == MessageType.PATCH_DOC:
            self._receive_patch(message)
        else:
            raise ServerGarbled(f"the server sent {message.msgtype[:40]} without a request")

    def _receive_patch(self, message: Message) -> None:
        if self.phase is not Phase.SHARED:
            return
        match self._position.step(message.metadata, len(self._backlog.in_flight)):
            case Step.KNOWN:
                return
            case Step.GAP:
                log.warning("patches lost: numbers are missing, pulling the document again")
                self._refetch()
                return
        try:
            self.mirror.apply(message)
        except Exception as problem:
            log.warning("patch cannot be applied: %s, pulling the document again", problem)
            self._refetch()

    def overrun(self) -> None:
        """Pull the document, because the inbox was full and has dropped patches."""
        if self.phase is Phase.SHARED:
            self._refetch()

    def _refetch(self) -> None:
        """Pull without a waiting caller. Messages are in order, so the answer includes all changes sent before."""
        self._backlog.hold_back()
        self._pull(asked=False)

    def _receive_answer(self, message: Message, reqid: str) -> None:
        expected, answer = self._answers.get(reqid, (None, None))
        if answer is None or expected is None:
            log.debug("answer dropped: %s, no request waits for it", message.msgtype)
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
            self._position.answered()
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
                log.warning("session is gone: pushing its document into the new session of the same id")
                self._push(asked=False, answer=fetch.answer)
                return
            # Changes made since the request: sent now, they would be overwritten here and not on the server.
            self._backlog.hold_back()
            self._diverged = False
            self._position.move(message.metadata)
            self.mirror.replace(message)
            self.mirror.attach()
        else:
            self._pushing, self._ours = False, True
            self._position.forget()
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
            # The server may have applied a part of it, so only its document shows the result.
            log.warning("a change that was made here has failed: %s, pulling the document again", problem)
            self.failure = self.failure or problem
            if self.phase is Phase.SHARED:
                self._refetch()
        elif self._fetch is not None and self._fetch.answer is answer:
            if not self._fetch.asked:
                raise problem  # without a document this connection is of no use, and no caller waits for the answer
            self._fetch, self._pushing = None, False
            self._enter(Phase.APART)
        answer.settle(problem)

    # Connections

    def cut_off(self, problem: ClientError) -> None:
        """Note the loss of the connection: all requests fail, and the changes wait for the next one."""
        answers, self._answers = self._answers, {}
        self._fetch = None
        self._lose_in_flight(problem)
        self._position.forget()
        if self.phase is not Phase.APART:
            self._enter(Phase.CUT_OFF)
        for _, answer in answers.values():
            answer.settle(problem)

    def _lose_in_flight(self, problem: ClientError) -> None:
        refused = is_about_what_was_sent(problem)
        if refused:
            self._pushing = False
        dropped = self._backlog.lost(refused=refused)
        if not dropped:
            return
        log.warning("changes dropped: %d, %s, they may be why the connection was lost", len(dropped), problem)
        if not refused:
            problem = ServerGone(f"the connection was lost twice while the same changes were in flight: {problem}")
        self.failure = self.failure or problem

    def resume(self) -> Answer:
        """Resynchronise over a new connection: pull or push the document, then make the unsent changes again."""
        if self._pushing:
            return self._push(asked=False)
        self._backlog.hold_back()
        return self._pull(asked=False, resumes=True)

    def take_failure(self) -> ClientError | None:
        """Fetch the failure of a change, and clear it."""
        failure, self.failure = self.failure, None
        return failure

    def close(self) -> None:
        """Stop following the document, and drop all unsent changes."""
        self.mirror.detach()
        self._backlog.forget()

    def _enter(self, phase: Phase) -> None:
        if phase not in _TRANSITIONS[self.phase]:
            raise AssertionError(f"{self.phase.name} does not become {phase.name}")
        self.phase = phase
