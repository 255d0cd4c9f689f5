"""The pairs between a node's processes: order, sockets that travel, and what is queued or dropped."""

from __future__ import annotations

import os
import socket

import pytest

from aperture.handoff import MAX_DATAGRAM, Adopt, Claimed, Endpoint, Hello, Message, datagram_pair


def adopt(head: bytes = b"head") -> Adopt:
    """A hand-over."""
    return Adopt(0, head, ("127.0.0.1", 1), False, "s")


def received(endpoint: Endpoint) -> list[Message]:
    """All that has arrived, with the sockets closed."""
    messages = []
    while batch := endpoint.receive():
        for message, passed in batch:
            messages.append(message)
            if passed is not None:
                passed.close()
    return messages


def test_messages_arrive_in_order_with_their_sockets() -> None:
    """The descriptor on the other side is the same connection, and programs started there do not inherit it."""
    here, there = map(Endpoint, datagram_pair())
    ours, theirs = socket.socketpair()
    here.send(Hello(1, 2, 3))
    here.send(adopt(), theirs)
    here.send(Claimed(("a", "b")))
    (hello, _), (adopted, passed), (claimed, _) = there.receive()
    assert (hello, adopted, claimed) == (Hello(1, 2, 3), adopt(), Claimed(("a", "b")))
    assert passed is not None
    assert not os.get_inheritable(passed.fileno())
    passed.sendall(b"hi")
    assert ours.recv(2) == b"hi"
    assert theirs.fileno() == -1
    for closing in (here, there, passed, ours):
        closing.close()


def test_what_the_kernel_does_not_take_waits_in_order() -> None:
    """A burst queues, the owner is told, and flushing sends the rest in order."""
    blocked: list[bool] = []
    ends = datagram_pair()
    here, there = Endpoint(ends[0], on_blocked=blocked.append), Endpoint(ends[1])
    sent = [Claimed((f"{number}" * 1000,)) for number in range(2000)]
    for message in sent:
        assert here.send(message)
    assert here.queued > 0
    arrived: list[Message] = []
    while here.queued:
        arrived += received(there)
        here.flush()
    arrived += received(there)
    assert arrived == sent
    assert blocked[0] is True
    assert blocked[-1] is False
    here.close()
    there.close()


def test_above_its_limit_an_endpoint_refuses_and_closes_the_socket() -> None:
    """A queue that nobody reads does not grow for ever."""
    ends = datagram_pair()
    here = Endpoint(ends[0], limit=1)
    while not here.full:
        here.send(Claimed(("x" * 50_000,)))
    ours, theirs = socket.socketpair()
    assert here.send(adopt(), theirs) is False
    assert ours.recv(1) == b""
    for closing in (here, ends[1], ours):
        closing.close()


def test_a_datagram_that_is_no_message_does_not_take_its_neighbours_along() -> None:
    """It is dropped, with the socket that should have come with it."""
    ends = datagram_pair()
    there = Endpoint(ends[1])
    ends[0].send(Hello(1, 1, 1).pack())
    ends[0].send(b"\xc1 nonsense")
    ends[0].send(adopt().pack())  # without its socket
    ends[0].send(Hello(2, 2, 2).pack())
    assert received(there) == [Hello(1, 1, 1), Hello(2, 2, 2)]
    ends[0].close()
    there.close()


def test_the_largest_datagram_passes_and_a_larger_message_is_refused() -> None:
    """The kernel's limit is known beforehand, and the socket stays the caller's."""
    here, there = map(Endpoint, datagram_pair())
    ours, theirs = socket.socketpair()
    with pytest.raises(ValueError, match="does not fit"):
        here.send(adopt(b"h" * MAX_DATAGRAM), theirs)
    assert theirs.fileno() != -1
    head = b"h" * (MAX_DATAGRAM - 100)
    assert here.send(adopt(head), theirs)
    assert received(there) == [adopt(head)]
    for closing in (here, there, ours):
        closing.close()
