"""The result of a check, and its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Verdict", "doubt", "good", "problem"]


class Verdict(Enum):
    """How bad it is."""

    GOOD = "ok"
    DOUBT = "warning"
    """It works now, but not for all users, or not for long."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Args:
        check: what was looked at, in a word or two.
        verdict: how bad it is.
        what: the observation.
        mend: what to do about it; empty if there is nothing to do.
    """

    check: str
    verdict: Verdict
    what: str
    mend: str = ""


def good(check: str, what: str) -> Finding:
    """A finding without a problem."""
    return Finding(check, Verdict.GOOD, what)


def doubt(check: str, what: str, mend: str) -> Finding:
    """A finding that is a warning."""
    return Finding(check, Verdict.DOUBT, what, mend)


def problem(check: str, what: str, mend: str) -> Finding:
    """A finding that is a problem."""
    return Finding(check, Verdict.PROBLEM, what, mend)
