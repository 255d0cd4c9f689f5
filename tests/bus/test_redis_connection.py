"""Which refusals of Redis are an outage, and which are a mistake."""

from __future__ import annotations

import pytest
import redis.exceptions
from redis._parsers.base import BaseParser

from aperture.bus.redis_connection import _refusal_code

REFUSALS = {
    "OOM command not allowed when used memory > 'maxmemory'.": "OOM",
    "READONLY You can't write against a read only replica.": "READONLY",
    "READONLY You can't write against a read only replica. script: 9a3f, on @user_script:8.": "READONLY",
    "ERR Error running script (call to f_9a3f): @user_script:8: @user_script: 8: -READONLY You can't write": "READONLY",
    "NOREPLICAS Not enough good replicas to write.": "NOREPLICAS",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist on disk.": "MISCONF",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "MASTERDOWN",
    "CLUSTERDOWN The cluster is down": "CLUSTERDOWN",
    "CROSSSLOT Keys in request don't hash to the same slot": "CROSSSLOT",
    "MOVED 3999 127.0.0.1:6381": "MOVED",
    "ASK 3999 127.0.0.1:6381": "ASK",
    "TRYAGAIN Multiple keys request during rehashing of slot": "TRYAGAIN",
    "NOPERM User app has no permissions to run the 'xadd' command": "NOPERM",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "BUSY",
    "BUSYGROUP Consumer Group name already exists": None,
    "BUSYKEY Target key name already exists.": None,
    "ERR unknown command 'READONLY'": None,
    "WRONGTYPE Operation against a key holding the wrong kind of value": None,
    "NOSCRIPT No matching script.": None,
}


@pytest.mark.parametrize("text", REFUSALS)
def test_what_redis_refuses_of_everybody_is_an_outage(text: str) -> None:
    """As the client library has it, which makes classes of some codes and leaves others in the text."""
    assert _refusal_code(BaseParser.parse_error(text)) == REFUSALS[text]  # type: ignore[no-untyped-call]


def test_an_answer_is_no_refusal() -> None:
    """Whatever it says."""
    assert _refusal_code(b"READONLY You can't") is None


@pytest.mark.parametrize(
    "text",
    [
        "LOADING Redis is loading the dataset in memory",
        "NOAUTH Authentication required.",
        "ERR max number of clients reached",
    ],
)
def test_what_ends_a_connection_is_an_error_of_the_connection(text: str) -> None:
    """The client library makes it one, so a link that reads it is lost, and connects anew with growing pauses."""
    problem = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]
    assert isinstance(problem, redis.exceptions.ConnectionError)
    assert not isinstance(problem, redis.exceptions.ResponseError)
