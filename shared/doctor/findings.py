"""What an examination finds, and what may be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Verdict", "doubt", "good", "problem"]


class Verdict(Enum):
    """How bad it is."""

    GOOD = "ok"
    DOUBT = "warning"
    """It works, and will not for everybody or not for long."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Args:
        check: what was looked at, in a word or two.
        verdict: how bad it is.
        what: what was seen.
        mend: what to do about it; empty if there is nothing to do.
    """

    check: str
    verdict: Verdict
    what: str
    mend: str = ""


def good(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.GOOD, what)


def doubt(check: str, what: str, mend: str) -> Finding:
    """It works for now."""
    return Finding(check, Verdict.DOUBT, what, mend)


def problem(check: str, what: str, mend: str) -> Finding:
    """It does not work."""
    return Finding(check, Verdict.PROBLEM, what, mend)
