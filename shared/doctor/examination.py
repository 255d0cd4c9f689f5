"""Runs one check after the other, and stops where the next would depend on one that failed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from aperture.client.urls import app_url
from aperture.doctor import checks
from aperture.doctor.findings import Finding, Verdict
from aperture.doctor.visit import Answer, Unreachable, Visitor, origin_of
from aperture.errors import ClientError
from aperture.protocol.naming import SESSION_ID_HEADER

__all__ = ["Patient", "examine"]

PAIRS = 6
"""Pages and websockets tried: with two processes that do not share sessions, 63 of 64 runs find it.

The ids of models show it. They differ between processes of `bokeh serve`, but not between nodes of Aperture."""

_BROWSER = {"Sec-Fetch-Dest": "document"}
_MARK = "doctor=a%20b"
"""An argument, which URLs of sessions are to keep letter by letter."""

HEADS = (2, 4, 8, 16)
"""KB of cookies."""

BODY = 2
"""MB of a body: twice what nginx takes by default."""


@dataclass(frozen=True, slots=True)
class Patient:
    """The app to check, and how.

    Args:
        url: of an app, as a user types it.
        visitor: makes the requests.
        origin: of a page that embeds the app; None without one.
        patience: seconds for which a quiet websocket is watched; 0 skips that.
    """

    url: str
    visitor: Visitor
    origin: str | None = None
    patience: float = 40.0


async def examine(patient: Patient) -> AsyncIterator[Finding]:
    """Check a server from outside; yields each finding as soon as there is one.

    Raises:
        BadAddress: the URL is not an address.
    """
    url, visitor = app_url(patient.url), patient.visitor
    try:
        found_urls = await _session_urls(visitor, url)
        page = await visitor.page(url)
    except Unreachable as failure:
        yield checks.judge_unreachable(url, failure)
        return
    if found_urls is not None:
        yield found_urls
        if found_urls.verdict is Verdict.PROBLEM:
            return
    found = checks.judge_page(page, await _index(visitor, page))
    yield found
    if found.verdict is Verdict.PROBLEM or page.token is None:
        return
    yield await _addresses(visitor, page)
    yield checks.judge_clock(page, time.time())
    failure_of_socket = await _open(visitor, page, origin_of(url))
    yield checks.judge_websocket(url, failure_of_socket)
    if failure_of_socket is not None:
        return
    yield await _pairs(visitor, url)
    if (found_early := await _early(visitor, url)) is not None:
        yield found_early
    if patient.origin is not None:
        yield checks.judge_origin(patient.origin, await _open(visitor, page, patient.origin))
    yield await _heads(visitor, url)
    yield await _body(visitor, url)
    if patient.patience > 0:
        yield await _idle(patient, page)


async def _session_urls(visitor: Visitor, url: str) -> Finding | None:
    """For a server with `--session-urls`; None where pages have no URLs of their own."""
    asked = urlunsplit(urlsplit(url)._replace(query=_MARK))
    first = await visitor.get(asked)
    if first.named_session is None:
        return None
    second = await visitor.get(asked)
    pages = await visitor.get(first.location), await visitor.get(first.location)
    return checks.judge_session_url(asked, (first, second), pages)


async def _early(visitor: Visitor, url: str) -> Finding | None:
    """For a server with `--early-pages`; None where no page comes before its session."""
    try:
        for _ in range(PAIRS):  # the first page of an app in each worker is an ordinary one
            page = await visitor.page(url, _BROWSER)
            if page.early and page.session_id is not None:
                break
        else:
            return None
    except Unreachable:
        return None  # other checks have had the same page
    parts = urlsplit(url)
    try:
        script = urlunsplit(parts._replace(path=f"{parts.path}/autoload.js", query=""))
        word: Answer | Unreachable = await visitor.head(script, {SESSION_ID_HEADER: page.session_id})
    except Unreachable as failure:
        word = failure
    return checks.judge_early(url, word, await _open(visitor, page, origin_of(url)))


async def _index(visitor: Visitor, page: Answer) -> Answer | None:
    """For a page that does not exist: the nearest page above it that lists apps."""
    if page.status != 404:
        return None
    parts = urlsplit(page.url)
    steps = [step for step in parts.path.split("/") if step]
    for depth in range(len(steps) - 1, -1, -1):
        above = "/".join(["", *steps[:depth], ""])
        try:
            answer = await visitor.get(urlunsplit(parts._replace(path=above, query="")))
        except Unreachable:
            return None
        if checks.addresses_of(answer):
            return answer
    return None


async def _addresses(visitor: Visitor, page: Answer) -> Finding:
    found = checks.judge_elsewhere(page)
    for script in checks.names_app(page):
        if found.verdict is not Verdict.GOOD:
            break
        try:
            answer = await visitor.get(script)
        except Unreachable:
            answer = None
        found = checks.judge_asset(page, script, answer)
    return found


async def _open(visitor: Visitor, page: Answer, origin: str) -> ClientError | None:
    assert page.token is not None, "only pages with a session come here"
    try:
        async with visitor.walk(page.url, page.token, origin) as walk:
            await walk.pull()
    except ClientError as failure:
        return failure
    return None


async def _pairs(visitor: Visitor, url: str) -> Finding:
    strangers = 0
    seen: set[str | None] = set()
    for _ in range(PAIRS):
        try:
            page = await visitor.page(url)
            if page.token is None:
                return checks.judge_pairs(PAIRS, 0, Unreachable("cut", f"a page answered {page.status}"))
            if page.session_id in seen:
                return checks.judge_shared()
            seen.add(page.session_id)
            async with visitor.walk(url, page.token, origin_of(url)) as walk:
                strangers += not page.roots <= await walk.pull()
        except (ClientError, Unreachable) as failure:
            return checks.judge_pairs(PAIRS, strangers, failure)
    return checks.judge_pairs(PAIRS, strangers, None)


async def _heads(visitor: Visitor, url: str) -> Finding:
    accepted = 0
    for size in HEADS:
        cookies = "; ".join(f"doctor{number}={'x' * 1000}" for number in range(size))
        given = next((value for name, value in visitor.headers.items() if name.lower() == "cookie"), "")
        try:
            answer = await visitor.page(url, {"Cookie": "; ".join(filter(None, [given, cookies]))})
        except Unreachable as failure:
            return checks.judge_heads(accepted, size, str(failure))
        if answer.status != 200:
            return checks.judge_heads(accepted, size, f"status {answer.status}")
        accepted = size
    return checks.judge_heads(accepted, None, "")


async def _body(visitor: Visitor, url: str) -> Finding:
    try:
        answer: Answer | Unreachable = await visitor.post(url, BODY * 1_000_000)
    except Unreachable as failure:
        answer = failure
    return checks.judge_body(BODY, answer)


async def _idle(patient: Patient, page: Answer) -> Finding:
    assert page.token is not None, "only pages with a session come here"
    try:
        async with patient.visitor.walk(page.url, page.token, origin_of(page.url)) as walk:
            return checks.judge_idle(patient.patience, await walk.cut_within(patient.patience))
    except ClientError as failure:
        return checks.judge_websocket(page.url, failure)
