"""Holds the patches that people have counted against those of `/metrics`, for a while in which nothing fails.

A process writes its numbers once a second, and a killed one takes the last of them along. So people work for two
seconds without a fault, and what the nodes had before is what they show when it has stood still.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from soak.crowd import RECOVER_SECONDS, Crowd, until
from soak.site import APP, Site
from support.exposition import samples
from support.fetch import fetch

__all__ = ["compare_counters"]

WORK_SECONDS = 2.0
BEHIND = 1.5
"""Seconds that `/metrics` may be behind."""

STILL = 3
"""Looks in a row that must show the same before it counts."""
LOOKS = 20

BEATS = 1
"""Patches per person and second that the app makes by itself; `/metrics` may or may not have the latest of them."""


async def compare_counters(crowd: Crowd) -> None:
    """Let people work, who keep still before and after, and note what does not agree."""
    census, history = crowd.census, crowd.history
    before = await _stood_still(crowd.site)
    weak = any(map(crowd.site.is_weak, range(len(crowd.site.nodes))))
    sent, answered, seen = census.sent, census.answered, census.seen
    crowd.go_on(steady=True)
    await asyncio.sleep(WORK_SECONDS)
    crowd.hold()
    if not await until(crowd.is_still, RECOVER_SECONDS):
        return
    after = await _stood_still(crowd.site)
    _compare_gaps(crowd, before, after, weak=weak)
    sent, answered, seen = census.sent - sent, census.answered - answered, census.seen - seen
    if before is None or after is None or sent != answered:
        return  # somebody was cut off in between, and nobody can know what has arrived
    taken, given = after["in"] - before["in"], after["out"] - before["out"]
    # At either end the counters may be behind, or the people.
    beats = BEATS * len(list(crowd.people())) * 4 * BEHIND
    if taken != sent:
        history.violate("counters", "", f"people have sent {sent} patches, /metrics says {taken}")
    if not seen - beats <= given <= seen + beats:
        what = f"people have seen {seen} patches, /metrics says {given}, of which {beats:.0f} may be beats"
        history.violate("counters", "", what)


def _compare_gaps(crowd: Crowd, before: Counter[str] | None, after: Counter[str] | None, *, weak: bool) -> None:
    """What is lost on the way to another worker is found and filled in seconds, so that nobody sees of it but this."""
    if before is None or after is None or weak:
        return
    gaps = after["gaps"] - before["gaps"]
    if gaps > 0:
        crowd.history.violate("nothing lost", "", f"workers have missed patches {gaps} times, while nothing failed")


async def _stood_still(site: Site) -> Counter[str] | None:
    """What has been counted, when no patch comes in any more; None if that cannot be told."""
    seen: list[Counter[str]] = []
    for _ in range(LOOKS):
        await asyncio.sleep(BEHIND)
        try:
            seen.append(await site.aside(_patches, site))
        except (OSError, ValueError):
            return None
        if len(seen) >= STILL and len({counted["in"] for counted in seen[-STILL:]}) == 1:
            return seen[-1]
    return None


def _patches(site: Site) -> Counter[str]:
    """Of the app, by direction, over all nodes; and the holes in the sequence of patches that workers have found."""
    found: Counter[str] = Counter()
    for node in site.nodes:
        for (name, labels), value in samples(fetch(node.admin_url + "/metrics").text).items():
            if name == "aperture_patches_total" and ("app", APP) in labels:
                found[dict(labels)["direction"]] += int(value)
            elif name == "aperture_relay_gaps_total":
                found["gaps"] += int(value)
    return found
