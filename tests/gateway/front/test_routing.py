"""Where a request goes, without any socket or clock."""

from __future__ import annotations

import pytest

from aperture.gateway.front import routing
from aperture.gateway.front.routing import SILENCE, RoutingTable
from aperture.wire.accounts import Load
from aperture.wire.node_messages import REPORT_INTERVAL, LoadReport


def table(workers: int, now: float = 0.0, first: int = 1) -> RoutingTable:
    """A table whose workers are all up and idle."""
    made = RoutingTable(workers, first)
    for worker in range(workers):
        made.hello(worker, 0, now)
        made.report(worker, load(), now)
    return made


def load(sessions: int = 0, lag: float = 0.0, adopted: int = 0) -> LoadReport:
    """A load report."""
    return LoadReport(Load(sessions, 0, lag, 0), adopted)


def test_without_workers_there_is_no_choice() -> None:
    """The caller waits for one."""
    assert RoutingTable(2).choose("a", 0.0) is None
    assert RoutingTable(2).choose(None, 0.0) is None


def test_a_claimed_session_goes_to_its_owner_however_loaded() -> None:
    """Sessions are sticky."""
    routes = table(3)
    routes.claim(1, ["a"])
    routes.report(1, load(sessions=1000, lag=5.0), 0.0)
    assert routes.choose("a", 0.0) == 1
    assert routes.knows("a")


def test_a_worker_that_has_not_reported_in_time_owes_it() -> None:
    """Between two reports it owes nothing; one that is not up owes nothing, either."""
    routes = table(2, now=10.0)
    routes.report(1, load(), 13.0)
    later = 13.0 + REPORT_INTERVAL
    assert [routes.overdue(worker, later) for worker in (0, 1)] == [3.0, 0.0]
    routes.down(0, 0)
    assert routes.overdue(0, later) == 0.0


def test_an_unknown_session_stays_where_it_was_first_sent() -> None:
    """The second request for a new id follows the first, before anybody has claimed it."""
    routes = table(4)
    first = routes.choose("new", 0.0)
    assert [routes.choose("new", 1.0) for _ in range(10)] == [first] * 10
    assert not routes.knows("new")


def test_an_unclaimed_session_is_forgotten_after_a_while() -> None:
    """A provisional entry ends, and its weight with it."""
    routes = table(2)
    first = routes.choose("new", 0.0)
    assert first is not None
    for _ in range(5):
        routes.choose("new", 1.0)
    later = routing.PROVISIONAL_LIFETIME + 1.0
    routes.report(first, load(sessions=9), later)
    routes.report(1 - first, load(), later)
    assert routes.choose("new", later) == 1 - first


def test_provisional_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invented ids push out the oldest, and the count of each worker stays right."""
    monkeypatch.setattr(routing, "MAX_PROVISIONAL", 10)
    routes = table(2)
    for number in range(100):
        routes.choose(f"id{number}", 0.0)
    assert len(routes._provisional) == 10
    assert sum(seat.provisional for seat in routes._up.values()) == 10


def test_a_claim_wins_over_what_was_thought() -> None:
    """A session claimed elsewhere moves, and a release by the former owner does not take it away."""
    routes = table(3)
    guessed = routes.choose("a", 0.0)
    assert guessed is not None
    owner = (guessed + 1) % 3
    routes.claim(owner, ["a"])
    assert routes.choose("a", 0.0) == owner
    routes.claim(guessed, ["a"])
    routes.release(owner, ["a"])
    assert routes.choose("a", 0.0) == guessed
    routes.release(guessed, ["a"])
    assert not routes.knows("a")


def test_equals_take_turns() -> None:
    """Idle workers are chosen round robin."""
    routes = table(3)
    assert [routes.choose(None, 0.0) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_the_worker_with_fewer_sessions_is_chosen_and_lag_breaks_ties() -> None:
    """While no visitor has to wait for an event loop: then lag counts last, in noticeable steps."""
    routes = table(3)
    routes.report(0, load(sessions=2), 0.0)
    routes.report(1, load(sessions=1, lag=0.05), 0.0)
    routes.report(2, load(sessions=1, lag=0.005), 0.0)
    assert routes.choose(None, 0.0) == 2


def test_a_worker_whose_loop_lags_gets_no_new_session_while_another_has_room() -> None:
    """However few sessions it has; one slow callback is forgotten soon, and says little."""
    routes = table(2)
    for report in range(4):
        routes.report(0, load(sessions=1, lag=0.4), report / 2)
        routes.report(1, load(sessions=50), report / 2)
    assert [routes.choose(None, 1.5) for _ in range(3)] == [1, 1, 1]
    for report in range(4, 8):
        routes.report(0, load(sessions=1), report / 2)
        routes.report(1, load(sessions=50), report / 2)
    assert routes.choose(None, 3.5) == 0
    routes.report(0, load(sessions=1, lag=0.15), 4.0)
    routes.report(1, load(sessions=50), 4.0)
    assert routes.choose(None, 4.0) == 0


def test_visitors_between_two_reports_do_not_all_go_to_the_worker_that_was_idle() -> None:
    """What was sent there is work, too, before it shows in a report."""
    routes = table(2)
    routes.report(0, load(lag=0.3), 0.0)
    chosen = []
    for _ in range(40):
        chosen.append(routes.choose(None, 0.1))
        routes.sent(chosen[-1] or 0)
    assert chosen[:6] == [1, 1, 1, 1, 1, 0]
    assert chosen.count(0) > 10


def test_connections_under_way_count_until_the_worker_has_adopted_them() -> None:
    """A burst between two load reports spreads."""
    routes = table(2)
    for _ in range(3):
        routes.sent(0)
    assert [routes.choose(None, 0.0) for _ in range(3)] == [1, 1, 1]
    routes.report(0, load(adopted=3), 0.1)
    assert routes.choose(None, 0.1) == 0


def test_a_connection_that_got_lost_on_the_way_is_not_waited_for() -> None:
    """What counts is the number of the last that arrived, however many before it did not; for viewers, too."""
    routes = table(3)
    routes.claim(0, ["s"])
    routes.crowd(0, "s", True)
    for _ in range(400):
        routes.sent(1)
    assert routes.choose("s", 0.0, viewer=True) == 2
    routes.report(1, load(adopted=400), 0.1)
    routes.report(2, load(sessions=1), 0.1)
    assert routes.choose(None, 0.1) == 1
    assert routes.choose("s", 0.1, viewer=True) == 1


def test_a_new_generation_does_not_carry_what_its_predecessor_was_sent() -> None:
    """Those connections are given back; what the new one is sent counts from there."""
    routes = table(2)
    for _ in range(3):
        routes.sent(0)
    routes.down(0, 0)
    routes.hello(0, 1, 0.0)
    assert {routes.choose(None, 0.0) for _ in range(2)} == {0, 1}
    routes.sent(0)
    assert [routes.choose(None, 0.0) for _ in range(2)] == [1, 1]
    routes.report(0, load(adopted=4), 0.1)
    assert 0 in [routes.choose(None, 0.1) for _ in range(2)]


def test_a_new_gateway_is_not_misled_by_what_an_earlier_one_sent() -> None:
    """The earlier one's numbers are lower, so they say nothing of what this one has sent."""
    routes = table(2, first=10_000)
    routes.report(0, load(adopted=5000), 0.1)
    routes.sent(0)
    assert [routes.choose(None, 0.1) for _ in range(2)] == [1, 1]
    routes.report(0, load(adopted=10_000), 0.2)
    assert 0 in [routes.choose(None, 0.2) for _ in range(2)]


def test_a_worker_without_descriptors_is_passed_over_while_another_has_some() -> None:
    """It turns away what comes, so it is the idlest of all; viewers of a crowded session do not go there either."""
    routes = table(3)
    exhausted = LoadReport(Load(0, 0, 0.0, 0), 0, exhausted=True)
    routes.claim(0, ["s"])
    routes.crowd(0, "s", True)
    routes.report(1, exhausted, 0.0)
    routes.report(2, load(sessions=50), 0.0)
    routes.report(0, load(sessions=50), 0.0)
    assert 1 not in [routes.choose(None, 0.0) for _ in range(4)]
    assert routes.choose("s", 0.0, viewer=True) == 2
    routes.report(0, LoadReport(Load(50, 0, 0.0, 0), 0, exhausted=True), 0.0)
    routes.report(2, LoadReport(Load(50, 0, 0.0, 0), 0, exhausted=True), 0.0)
    assert {routes.choose(None, 0.0) for _ in range(4)} == {1}
    routes.report(1, load(), 0.1)
    assert routes.choose(None, 0.1) == 1


def test_a_worker_that_has_not_reported_is_passed_over_while_another_has() -> None:
    """A worker stuck in app code gets neither new sessions nor a crowd's viewers, unless all are stuck."""
    routes = table(3)
    for worker in (1, 2):
        routes.report(worker, load(sessions=50), SILENCE + 0.01)
    assert 0 not in [routes.choose(None, SILENCE + 0.01) for _ in range(3)]
    routes.claim(1, ["s"])
    routes.crowd(1, "s", True)
    assert routes.choose("s", SILENCE + 0.01, viewer=True) == 2
    assert routes.choose(None, REPORT_INTERVAL) == 0, "its next report is not due"
    routes.report(0, load(sessions=70), 90.0)
    assert routes.choose(None, 100.0) == 0, "of all that are silent, the one that was heard last"


def test_a_dead_worker_is_forgotten_with_all_it_had() -> None:
    """Its sessions go elsewhere, claimed or not."""
    routes = table(2)
    routes.claim(0, ["a"])
    provisional = next(name for name in "bcd" if routes.choose(name, 0.0) == 0)
    assert routes.down(0, 0)
    assert routes.up == (1,)
    assert routes.choose("a", 0.0) == 1
    assert routes.choose(provisional, 0.0) == 1
    assert routes.generation(0) is None


def test_a_late_word_of_an_earlier_death_changes_nothing() -> None:
    """The next generation may say hello before the last one's death is heard."""
    routes = table(2)
    routes.claim(0, ["old"])
    assert routes.hello(0, 1, 0.0)
    assert not routes.knows("old")
    routes.claim(0, ["new"])
    assert not routes.down(0, 0)
    assert not routes.hello(0, 1, 0.0)
    assert routes.choose("new", 0.0) == 0
    assert routes.generation(0) == 1


def test_words_of_a_worker_that_is_down_are_not_heeded() -> None:
    """Its sessions would be routed to a worker that does not exist."""
    routes = RoutingTable(2)
    routes.claim(0, ["a"])
    routes.report(0, load(), 0.0)
    routes.sent(0)
    assert not routes.knows("a")


def test_long_ids_are_told_apart() -> None:
    """Ids that are kept as digests work as whole ones do."""
    routes = table(2)
    routes.claim(0, ["x" * 500])
    routes.claim(1, ["x" * 501])
    assert (routes.choose("x" * 500, 0.0), routes.choose("x" * 501, 0.0)) == (0, 1)
    routes.release(0, ["x" * 500])
    assert not routes.knows("x" * 500)


def test_viewers_of_a_crowded_session_go_to_the_worker_with_the_fewest_connections() -> None:
    """Its owner has enough of them; pages still go to the owner, and so do viewers once it is relieved."""
    routes = table(3)
    routes.claim(0, ["s"])
    routes.report(1, LoadReport(Load(0, 9, 0.0, 0), 0), 0.0)
    routes.crowd(0, "s", True)
    assert routes.choose("s", 0.0, viewer=True) == 2
    assert routes.choose("s", 0.0) == 0
    routes.crowd(0, "s", False)
    assert routes.choose("s", 0.0, viewer=True) == 0


def test_only_its_owner_says_that_a_session_is_crowded() -> None:
    """And a session that moves is not crowded where it comes to; telling of it again changes nothing."""
    routes = table(2)
    routes.claim(0, ["s"])
    routes.crowd(1, "s", True)
    assert routes.choose("s", 0.0, viewer=True) == 0
    routes.crowd(0, "s", True)
    routes.claim(0, ["s"])
    assert routes.choose("s", 0.0, viewer=True) == 1
    routes.claim(1, ["s"])
    assert routes.choose("s", 0.0, viewer=True) == 1


def test_a_crowded_session_of_the_only_worker_stays_there() -> None:
    """There is no other worker to send its viewers to."""
    routes = table(1)
    routes.claim(0, ["s"])
    routes.crowd(0, "s", True)
    assert routes.choose("s", 0.0, viewer=True) == 0


def test_a_moved_session_is_for_another_worker() -> None:
    """The one that was named, else any but the one that gave it away; who claims it is right in the end."""
    for to, expected in ((2, {2}), (-1, {1, 2}), (0, {1, 2}), (9, {1, 2})):
        routes = table(3)
        routes.claim(0, ["s"])
        routes.move(0, "s", to, 1.0)
        assert routes.choose("s", 1.0) in expected
        routes.claim(0, ["s"])
        assert routes.choose("s", 1.0) == 0


def test_a_session_of_the_only_worker_comes_back_to_it() -> None:
    """There is no other worker in this node."""
    routes = table(1)
    routes.claim(0, ["s"])
    routes.move(0, "s", -1, 1.0)
    assert routes.choose("s", 1.0) == 0
