"""What has been seen, newest last: of each session as much as a fault needs to be understood, and every violation."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["History", "Violation"]

EVENTS = 5000
"""Of each session; older ones are forgotten."""

VIOLATIONS = 50
"""That are kept; the first is what counts."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be.

    Args:
        check: the rule that it breaks.
        session: the id, or nothing where it is of a whole node.
        what: was seen.
        at: seconds since the run began.
    """

    check: str
    session: str
    what: str
    at: float

    def __str__(self) -> str:
        where = f" in {self.session[:8]}" if self.session else ""
        return f"{self.at:8.1f} s: {self.check}{where}: {self.what}"


@dataclass(slots=True)
class History:
    """Of one run.

    Args:
        clock: seconds that only grow.
    """

    clock: Callable[[], float] = time.monotonic
    violations: list[Violation] = field(default_factory=list)
    _begun: float = field(init=False)
    _events: dict[str, deque[tuple[object, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun = self.clock()

    def now(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self._begun

    def note(self, session: str, *event: object) -> None:
        """Keep one event of a session; `site` for those of all."""
        events = self._events.get(session)
        if events is None:
            events = self._events[session] = deque(maxlen=EVENTS)
        events.append((round(self.now(), 4), *event))

    def violate(self, check: str, session: str, what: str) -> None:
        """Note that a rule was broken."""
        self.note(session or "site", "violation", check, what)
        if len(self.violations) < VIOLATIONS:
            self.violations.append(Violation(check, session, what, self.now()))

    def write(self, folder: Path) -> None:
        """One file of JSON lines for each session with a violation, and one for what happened to all."""
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {"site", *(violation.session for violation in self.violations)}
        for session in wanted & self._events.keys():
            lines = [json.dumps(event, default=str) for event in self._events[session]]
            (folder / f"{session}.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "violations.txt").write_text("\n".join(map(str, self.violations)) + "\n")
