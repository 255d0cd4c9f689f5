"""What a client and a server say to each other about one document, without I/O: requests, answers, patches, pulls.

Both faces of the client are pumps around this. They give it the messages that arrive, in order, and put what it sends
on the wire. The rules:

- A patch is applied when it comes, whatever answer is awaited. Until the first document is here, and from the moment
  that something is known to be missing until the document has been pulled anew, patches are dropped: the answer to the
  pull includes them.
- Changes made here go out in order, as many in one patch as have gathered. While `MAX_UNANSWERED` patches wait for
  their answers they gather; above `MAX_WAITING` bytes the assignment that would add to them fails.
- When the connection was lost and there is a new one, the document becomes the server's. Then the changes that were
  never sent are made again on it and sent. So are those that were sent and not answered, if making them twice is the
  same as once: attributes and titles. The others (streams, patches of columns, messages, roots) are in the server's
  document, if they arrived.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto

from bokeh.document.events import ModelChangedEvent, TitleChangedEvent

from aperture.client.mirror import Change, Mirror
from aperture.client.place import Place, Step
from aperture.errors import ClientError, MessageTooLarge, Overloaded, RequestFailed, ServerGarbled
from aperture.protocol import messages
from aperture.protocol.codec import join_events
from aperture.protocol.messages import Message, Request

__all__ = ["Answer", "Exchange", "Phase"]

log = logging.getLogger(__name__)

MAX_UNANSWERED = 64
"""Patches under way at a time: enough to fill a long line, few enough that a burst becomes a few large patches."""

MAX_WAITING = 64 * 1024 * 1024
"""Bytes of changes that wait for the server."""

PATCH_SIZE = 1024 * 1024
"""Bytes after which a patch is full; a single change may be larger."""

_REPEATABLE = (ModelChangedEvent, TitleChangedEvent)


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


class Exchange:
    """One session's conversation, over all its connections. Calls must be serialised.

    Args:
        mirror: the document.
        send: puts a request on the wire; called only while there is a connection.
        wake: called when there are changes to `flush`.
        max_message_size: bytes.
    """

    def __init__(
        self, mirror: Mirror, send: Callable[[Request], None], wake: Callable[[], None], max_message_size: int
    ) -> None:
        self.mirror = mirror
        self.phase = Phase.APART
        self.failure: ClientError | None = None
        """What the server said of a change that nobody waited for; for whoever asks next."""
        self._send = send
        self._wake = wake
        self._max_message_size = max_message_size
        self._place = Place()
        self._answers: dict[str, tuple[str, Answer]] = {}
        """Requests that wait: the type of the answer, and where it goes."""
        self._under_way: dict[str, list[Change]] = {}
        self._waiting: list[Change] = []
        self._repeat: list[Change] = []
        """To be made again on the next document."""
        self._kept_bytes = 0
        """Of both."""
        self._fetch: tuple[str, Answer] | None = None
        """The request whose answer will make the documents equal; the answer to an earlier one comes too late."""
        self._batches = 0

    # Changes made here

    def changed(self, change: Change) -> None:
        """Take a change of the document.

        Raises:
            MessageTooLarge: it alone is too large for a message.
            Overloaded: too much waits already.
        """
        if change.size > self._max_message_size:
            if self.phase is Phase.SHARED:
                self._refetch()  # which undoes it
            raise MessageTooLarge(f"a change of {change.size} bytes; {self._max_message_size} are allowed")
        if self._kept_bytes + change.size > MAX_WAITING:
            raise Overloaded(f"{self._kept_bytes} bytes of changes wait for the server already")
        self._waiting.append(change)
        self._kept_bytes += change.size
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
            if not self._batches and self._waiting:
                self._wake()

    def flush(self) -> None:
        """Send what waits, as far as that may be sent now."""
        while self._waiting and self.ready_to_send:
            batch = self._next_batch()
            request = messages.patch_request(*join_events(change.encoded for change in batch))
            self._under_way[request.msgid] = batch
            self._request(request, "OK")

    @property
    def ready_to_send(self) -> bool:
        return self.phase is Phase.SHARED and not self._batches and len(self._under_way) < MAX_UNANSWERED

    @property
    def settled(self) -> bool:
        """Whether the server has answered all that was changed here."""
        return self.phase is Phase.SHARED and not self._waiting and not self._under_way

    @property
    def waiting(self) -> bool:
        """Whether something that was changed here has not been sent."""
        return self.phase is Phase.SHARED and bool(self._waiting)

    def _next_batch(self) -> list[Change]:
        size = count = 0
        for change in self._waiting:
            if count and size + change.size > min(PATCH_SIZE, self._max_message_size):
                break
            count, size = count + 1, size + change.size
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._kept_bytes -= size
        return batch

    # Requests

    def pull(self) -> Answer:
        """Ask for the document, which becomes this one's content. What was changed here before is sent before."""
        if self.phase is Phase.FETCHING and self._fetch is not None:
            return self._fetch[1]  # nothing has been sent since
        self.flush()
        return self._fetch_with(messages.pull_request(), "PULL-DOC-REPLY")

    def push(self) -> Answer:
        """Make the server's document what this one is.

        Raises:
            MessageTooLarge: it does not fit into a message.
        """
        content, buffers = self.mirror.encoded_document()
        size = len(content) + sum(len(buffer.data) for buffer in buffers)
        if size > self._max_message_size:
            raise MessageTooLarge(f"the document has {size} bytes; {self._max_message_size} are allowed")
        self._forget_changes()  # all of it is in the document
        self.mirror.pushed()
        self.mirror.attach()
        return self._fetch_with(messages.push(content, buffers), "OK")

    def ask_server_info(self) -> Answer:
        """Ask for versions, and so whether the server still answers."""
        return self._request(messages.server_info_request(), "SERVER-INFO-REPLY")

    def _fetch_with(self, request: Request, expected: str) -> Answer:
        self._enter(Phase.FETCHING)
        answer = Answer()
        self._fetch = (request.msgid, answer)
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
        """
        if message.reqid is not None:
            self._receive_answer(message, message.reqid)
        elif message.msgtype == "PATCH-DOC":
            self._receive_patch(message)
        else:
            raise ServerGarbled(f"the server sent {message.msgtype[:40]} without being asked")

    def _receive_patch(self, message: Message) -> None:
        if self.phase is not Phase.SHARED:
            return
        match self._place.step(message.metadata, len(self._under_way)):
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
        self._keep_for_later()
        self.pull()

    def _receive_answer(self, message: Message, reqid: str) -> None:
        expected, answer = self._answers.get(reqid, (None, None))
        if answer is None or expected is None:
            log.debug("the server answered what nobody asked: %s", message.msgtype)
            return
        del self._answers[reqid]
        try:
            self._take_answer(message, reqid, expected, answer)
        except ServerGarbled as problem:
            answer.settle(problem)
            raise

    def _take_answer(self, message: Message, reqid: str, expected: str, answer: Answer) -> None:
        changes = self._under_way.pop(reqid, None)
        if changes is not None:
            self._place.answered()
        if message.msgtype == "ERROR":
            self._failed(message, changes is not None, answer)
        elif message.msgtype != expected:
            raise ServerGarbled(f"the server answered with {message.msgtype[:40]} where {expected} was due")
        else:
            if changes is not None:
                self.flush()
            elif self._fetch is not None and self._fetch[0] == reqid:
                self._fetched(message)
            answer.settle(message)

    def _fetched(self, message: Message) -> None:
        self._fetch = None
        if message.msgtype == "PULL-DOC-REPLY":
            self._keep_for_later()  # or it would be overwritten here and not there
            self._place.move(message.metadata)
            self.mirror.replace(message)
            self.mirror.attach()
        else:
            self._place.forget()
        self._enter(Phase.SHARED)
        repeat, self._repeat = self._repeat, []
        self._kept_bytes -= sum(change.size for change in repeat)
        for change in repeat:
            self.mirror.make_again(change)
        self.flush()

    def _failed(self, message: Message, was_patch: bool, answer: Answer) -> None:
        content = message.content if isinstance(message.content, dict) else {}
        problem = RequestFailed(f"the server answered: {content.get('text') or 'an error without a text'}")
        if was_patch:
            # Nobody knows how much of it was done, so the server's document must tell.
            self.failure = self.failure or problem
            if self.phase is Phase.SHARED:
                self._refetch()
        elif self._fetch is not None and self._fetch[1] is answer:
            self._fetch = None
            self._enter(Phase.APART)
        answer.settle(problem)

    # Connections

    def cut_off(self, problem: ClientError) -> None:
        """The connection is lost: nobody will be answered any more, and what was changed here is kept."""
        answers, self._answers = self._answers, {}
        under_way = [change for batch in self._under_way.values() for change in batch]
        self._under_way = {}
        self._fetch = None
        again = [change for change in under_way if type(change.event) in _REPEATABLE]
        self._repeat += again
        self._kept_bytes += sum(change.size for change in again)
        self._place.forget()
        if self.phase is not Phase.APART:
            self._enter(Phase.CUT_OFF)
        for _, answer in answers.values():
            answer.settle(problem)

    def resume(self) -> Answer:
        """There is a connection again: make the document the server's, and make again what the server has not had."""
        self._keep_for_later()
        return self.pull()

    def take_failure(self) -> ClientError | None:
        """What the server said of a change, once."""
        failure, self.failure = self.failure, None
        return failure

    def close(self) -> None:
        """Leave the document to whoever has it."""
        self.mirror.detach()
        self._forget_changes()

    def _keep_for_later(self) -> None:
        """What waits is made again on the next document instead of being sent as it is."""
        self._repeat += self._waiting
        self._waiting = []

    def _forget_changes(self) -> None:
        self._waiting, self._repeat, self._kept_bytes = [], [], 0

    def _enter(self, phase: Phase) -> None:
        if phase not in _TRANSITIONS[self.phase]:
            raise AssertionError(f"{self.phase.name} does not become {phase.name}")
        self.phase = phase
