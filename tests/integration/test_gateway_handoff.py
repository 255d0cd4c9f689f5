"""The pairs between a node's processes: order, sockets that travel, and what is queued or dropped."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from aperture.wire.endpoint import MAX_DATAGRAM, Endpoint, datagram_pair
from aperture.wire.node_messages import Adopt, Claimed, Hello, NodeMessage


def adopt(head: bytes = b"head") -> Adopt:
    """A hand-over."""
    return Adopt(0, head, ("127.0.0.1", 1), False, "s", 1)


def received(endpoint: Endpoint) -> list[NodeMessage]:
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
    """A burst queues, the owner is called back, and flushing sends the rest in order."""
    blocked: list[bool] = []
    ends = datagram_pair()
    here, there = Endpoint(ends[0], on_blocked=blocked.append), Endpoint(ends[1])
    sent = [Claimed((f"{number}" * 1000,)) for number in range(2000)]
    for message in sent:
        assert here.send(message)
    assert here.queued > 0
    arrived: list[NodeMessage] = []
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
    """A queue that is not read does not grow for ever."""
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
    """It is dropped, and with it a socket that came where none should."""
    ends = datagram_pair()
    there = Endpoint(ends[1])
    ours, theirs = socket.socketpair()
    ends[0].send(Hello(1, 1, 1).pack())
    ends[0].send(b"\xc1 nonsense")
    socket.send_fds(ends[0], [Hello(3, 3, 3).pack()], [theirs.fileno()])
    ends[0].send(Hello(2, 2, 2).pack())
    assert received(there) == [Hello(1, 1, 1), Hello(2, 2, 2)]
    theirs.close()
    assert ours.recv(1) == b""
    for closing in (ends[0], there, ours):
        closing.close()


def test_a_connection_whose_socket_got_lost_still_says_its_number() -> None:
    """Another thread may take the last descriptor in the meantime; the sender must not wait for that connection."""
    ends = datagram_pair()
    there = Endpoint(ends[1])
    ends[0].send(adopt().pack())
    assert there.receive() == [(adopt(), None)]
    ends[0].close()
    there.close()


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + count + 8, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_connections_are_answered_and_their_neighbours_arrive() -> None:
    """As many are taken as there is room for, the others get a 503, and what comes without a socket is not lost."""
    here, there = map(Endpoint, datagram_pair())
    assert there.receive() == []  # from here on it holds its spare descriptor
    clients = []
    for number in range(1, 6):
        ours, theirs = socket.socketpair()
        clients.append(ours)
        assert here.send(Adopt(0, b"head", None, False, None, number), theirs)
        assert here.send(Claimed((str(number),)))
    with descriptors_left(2):
        arrived = there.receive()
    passed = [found for message, found in arrived if isinstance(message, Adopt)]
    assert [message.number for message, _ in arrived if isinstance(message, Adopt)] == [1, 2, 3, 4, 5]
    assert [message.session_ids for message, _ in arrived if isinstance(message, Claimed)] == [(c,) for c in "12345"]
    assert [found is not None for found in passed] == [True, True, False, False, False]
    for ours in clients[2:]:
        assert ours.recv(12) == b"HTTP/1.1 503"
    for found in passed:
        if found is not None:
            found.close()
    for end in (here, there):
        end.close()
    for client in clients:
        client.close()


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
