"""Turns answers into findings: what they mean, and how to fix it. No I/O."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urljoin, urlsplit

from aperture.doctor.findings import Finding, doubt, good, problem
from aperture.doctor.remedies import BODY, FORWARDED, HEAD, HOST, IDLE, PREFIX, UPGRADE
from aperture.doctor.visit import Answer, Unreachable, origin_of
from aperture.errors import (
    ClientError,
    NoSuchApp,
    NotAServer,
    NotLoggedIn,
    OriginRefused,
    Refused,
    ServerGarbled,
    ServerSilent,
    TokenRefused,
)
from aperture.protocol.tokens import read_expiry

__all__ = [
    "addresses_of",
    "judge_asset",
    "judge_body",
    "judge_clock",
    "judge_early",
    "judge_elsewhere",
    "judge_heads",
    "judge_idle",
    "judge_origin",
    "judge_page",
    "judge_pairs",
    "judge_session_url",
    "judge_shared",
    "judge_unreachable",
    "judge_websocket",
    "names_app",
]

SKEW = 60.0
"""Seconds by which clocks may differ; a token is valid for five minutes by default."""

COMMON_HEAD = 4
"""KB of cookies that any browser may send: a proxy that refuses these refuses ordinary visitors."""

_LOCAL = ("localhost", "127.0.0.1", "::1")

_NO_CACHE = "Pages say Cache-Control: no-store, which a cache or a CDN on the way has to follow"
_QUERY = "Let the proxy pass the query of requests, and the Location of redirects, on as they are"

_LINK = re.compile(r'href="([^"]+)"')
_SCRIPT = re.compile(r"""<script\b[^>]*\ssrc=["']([^"']+)["']""")
_ASSET = re.compile(r"/static/.+\.js")

_CAUSES = {
    "name": ("the host name is not known", "Check the spelling, and whether this machine's DNS knows it"),
    "refused": ("nothing listens there", "Is the server running, on this port, and at an address that others reach?"),
    "network": ("the network does not lead there", "Check route, VPN and firewall between this machine and the server"),
    "certificate": (
        "the certificate is not to be trusted",
        "Serve the whole chain for this host name; --insecure ignores it",
    ),
    "not-tls": ("what listens there does not speak TLS", "Use http://, or end TLS in the proxy or with --ssl-certfile"),
    "silent": (
        "it accepts connections and does not answer",
        "Is the app's code very slow, or the proxy's upstream stuck? --timeout waits longer",
    ),
    "cut": (
        "the connection was closed without an answer",
        "If the server speaks TLS, use https://; otherwise something else listens on this port",
    ),
}


def judge_unreachable(url: str, failure: Unreachable) -> Finding:
    """The finding if there was no answer."""
    what, mend = _CAUSES[failure.reason]
    return problem("connection", f"{url}: {what} ({failure})", mend)


def judge_page(answer: Answer, index: Answer | None) -> Finding:
    """The finding for the app's page; `index` is the nearest page that lists apps, if the page is missing."""
    status, url = answer.status, answer.url
    if status == 200 and answer.token is not None:
        return good("page", f"{url} is the page of an app, with a session")
    if status == 200:
        apps = addresses_of(answer)
        hint = (
            f"The apps there: {', '.join(apps)}"
            if apps
            else "Give the address of an app, as `aperture serve` prints it"
        )
        return problem("page", f"{url} is a page, and not an app's", hint)
    if 300 <= status < 400:
        return _judge_redirect(url, answer.headers.get("Location", ""))
    if status == 404:
        apps = [] if index is None else addresses_of(index)
        hint = f"The apps there: {', '.join(apps)}" if apps else "Check the path, and the server's --prefix"
        return problem("page", f"the server knows no app at {url}", hint)
    if status in (401, 407):
        return problem(
            "page", f"{url} requires a login ({status})", "Pass the cookie of a login: --header 'Cookie: ...'"
        )
    if status == 403:
        return problem(
            "page",
            f"{url} is refused ({answer.text.strip()[:120]})",
            "Does this server require ids from another program (--session-ids external-signed), or refuse this user?",
        )
    if status in (502, 503, 504):
        return problem(
            "page",
            f"{url} answers {status}: a proxy found no server behind it, or one that is not ready",
            "Look at the proxy's log and at /readyz?verbose of the node's admin port",
        )
    if status >= 500:
        return problem("page", f"{url} answers {status}: the app or the server failed", "Its log has the traceback")
    return problem("page", f"{url} answers {status}", "A server of Bokeh apps does not answer so")


def _judge_redirect(url: str, location: str) -> Finding:
    target = urljoin(url, location)
    if (
        urlsplit(target).path.rstrip("/") == urlsplit(url).path.rstrip("/")
        and urlsplit(target).netloc == urlsplit(url).netloc
    ):
        return problem(
            "page",
            f"{url} leads to {target}",
            f"Use {target}. Behind TLS that ends in a proxy: --use-xheaders, and X-Forwarded-Proto. {FORWARDED}",
        )
    if "login" in target or "next=" in target:
        return problem(
            "page", f"{url} asks to log in at {target}", "Pass the cookie of a login: --header 'Cookie: ...'"
        )
    return problem("page", f"{url} leads to {target}", f"Examine {target}")


def judge_session_url(asked: str, redirects: tuple[Answer, Answer], pages: tuple[Answer, Answer]) -> Finding:
    """The finding for URLs of sessions (`--session-urls`).

    Args:
        asked: the URL that was asked for twice.
        redirects: the two answers.
        pages: what came from the first one's address, twice.
    """
    check = "session URLs"
    first, second = redirects
    if first.named_session == second.named_session:
        return problem(check, "two visitors are sent to one session", f"Something keeps the redirects. {_NO_CACHE}")
    if origin_of(first.location) != origin_of(asked):
        return problem(
            check,
            f"{asked} leads to another server, {first.location}",
            "A proxy rewrites redirects; the server's own lead to the same address with another query",
        )
    if not set(urlsplit(asked).query.split("&")) <= set(urlsplit(first.location).query.split("&")):
        return problem(check, f"arguments of {asked} are lost on the way", _QUERY)
    if any(page.session_id != first.named_session for page in pages):
        return problem(check, "the URL of a session leads to another one, so that a reload loses everything", _QUERY)
    if any("Referrer-Policy" not in page.headers for page in pages):
        return doubt(
            check,
            "links in the page tell other sites the URL of the session: Referrer-Policy is lost on the way",
            "Let the proxy pass the server's Referrer-Policy on",
        )
    return good(check, "a page has the URL of its session, which leads back to it")


def judge_shared() -> Finding:
    """The finding for one session in the pages of two visitors."""
    return problem("sessions", "two visitors are given one session", f"Something keeps the pages. {_NO_CACHE}")


def judge_early(url: str, word: Answer | Unreachable, failure: ClientError | None) -> Finding:
    """The finding for a page that comes before its session (`--early-pages`).

    Args:
        url: of the app.
        word: the answer to the page's message that it has its scripts.
        failure: of its websocket; None if it opened and the server sent the document.
    """
    check = "early pages"
    if failure is not None:
        return problem(
            check, f"a page that came before its session did not get it: {failure}", "Look at the log of the server"
        )
    if isinstance(word, Unreachable) or word.status != HTTPStatus.NO_CONTENT:
        said = "nothing" if isinstance(word, Unreachable) else str(word.status)
        return doubt(
            check,
            f"HEAD .../autoload.js answers {said}: the app's code waits until BokehJS runs",
            "Let the proxy pass on HEAD, and the header Bokeh-Session-Id",
        )
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        return doubt(
            check,
            "browsers get none by http://, as they do not send Sec-Fetch-Dest there",
            "Serve it by https://",
        )
    return good(check, "pages come before their sessions, and get them")


def addresses_of(index: Answer) -> list[str]:
    """The addresses of the apps that an index page lists."""
    if index.status != 200:
        return []
    links = [urljoin(index.url, link) for link in _LINK.findall(index.text)]
    here = origin_of(index.url)
    return sorted({link for link in links if link.startswith(here) and "/static/" not in link and link != index.url})[
        :20
    ]


def names_app(page: Answer) -> list[str]:
    """The scripts that a page loads from its own server."""
    return [script for script in _scripts(page) if _is_own(script)]


def _scripts(page: Answer) -> list[str]:
    return list(dict.fromkeys(urljoin(page.url, source) for source in _SCRIPT.findall(page.text)))


def _is_own(script: str) -> bool:
    return _ASSET.search(script) is not None and "cdn.bokeh.org" not in script


def _is_mixed(page: Answer, script: str) -> bool:
    return urlsplit(page.url).scheme == "https" and urlsplit(script).scheme == "http"


def judge_elsewhere(page: Answer) -> Finding:
    """The finding for the page's other scripts, which are not fetched, because this machine may lack access to them."""
    scripts = [script for script in _scripts(page) if not _is_own(script)]
    for script in scripts:
        if _is_mixed(page, script):
            return problem(
                "addresses",
                f"the page is https and asks for {script}, which browsers refuse",
                "Name it by https://, in the app's template or in Bokeh's BOKEH_RESOURCES settings",
            )
    if not scripts:
        return good("addresses", "the page includes its scripts")
    hosts = dict.fromkeys(urlsplit(script).netloc for script in scripts)
    return good("addresses", f"the page has its scripts from elsewhere: {', '.join(hosts)}")


def judge_asset(page: Answer, script: str, answer: Answer | None) -> Finding:
    """The finding for one of the page's scripts, fetched as the browser does."""
    if _is_mixed(page, script):
        return problem(
            "addresses",
            f"the page is https and asks for {script}, which browsers refuse",
            f"Start the server with --use-xheaders, and have the proxy set X-Forwarded-Proto. {FORWARDED}",
        )
    if answer is None or answer.status != 200 or "javascript" not in answer.headers.get("Content-Type", "javascript"):
        said = "nothing" if answer is None else str(answer.status)
        return problem(
            "addresses",
            f"the page asks for {script}, which answers {said}",
            f"Below a path of a proxy, start the server with --prefix, and have the proxy keep the path. {PREFIX}",
        )
    return good("addresses", "the page's scripts are where it says")


def judge_clock(page: Answer, now: float) -> Finding:
    """The finding for the server's clock and the expiry of the page's token; `now` in seconds since the epoch."""
    stated = page.headers.get("Date")
    try:
        server = parsedate_to_datetime(stated).timestamp() if stated else now
    except ValueError:
        server = now
    skew = server - now
    expiry = None if page.token is None else read_expiry(page.token)
    if expiry is not None and expiry <= server:
        return problem(
            "clock",
            "the page's token had expired when it came",
            "Set the clocks of the nodes by NTP; is the page from a cache?",
        )
    if expiry is not None and abs(skew) > SKEW:
        return doubt(
            "clock",
            f"the server's clock and this machine's differ by {abs(skew):.0f} s",
            "Set both by NTP; with several nodes a token of one may be expired for another",
        )
    return good("clock", "the clocks agree")


def judge_websocket(url: str, failure: ClientError | None) -> Finding:
    """The finding for the page's websocket; `failure` is None if it opened and the server sent its first message."""
    check = "websocket"
    match failure:
        case None:
            return good(check, "opens, and the server sends the document")
        case OriginRefused():
            return problem(check, f"the page's own origin is refused: {failure}", _allow(origin_of(url)))
        case NoSuchApp():
            return problem(
                check,
                f"the page is there and its websocket is not: {failure}",
                "The proxy must pass .../ws on to the same server, with the path as it is",
            )
        case NotLoggedIn():
            return problem(check, f"{failure}", "The proxy must pass cookies on with websockets, too")
        case TokenRefused():
            return problem(check, f"{failure}", "All nodes need the same BOKEH_SECRET_KEY, --session-ids and time")
        case Refused(status=403):
            return problem(check, f"the page's own origin may be refused: {failure}", _allow(origin_of(url)))
        case NotAServer(status=431 | 414 | 494) | Refused(status=431 | 414 | 494):
            return problem(check, f"the token is too long for a proxy: {failure}", f"Let it take longer heads. {HEAD}")
        case NotAServer():
            mend = f"Let the proxy in front pass upgrades on. {UPGRADE}"
            return problem(check, f"there is no websocket upgrade: {failure}", mend)
        case ServerGarbled():
            return problem(
                check, f"{failure}", "A proxy on the way changes the messages, or this is not a server of Bokeh apps"
            )
        case ServerSilent():
            return problem(
                check,
                f"{failure}",
                f"A proxy may hold websockets back. {UPGRADE}",
            )
        case _:
            return problem(check, f"{failure}", "Look at the logs of the server and of the proxy at this moment")


def judge_pairs(pairs: int, strangers: int, failure: ClientError | Unreachable | None) -> Finding:
    """The finding for several pages with their websockets: does each websocket reach its page's session?"""
    check = "sessions"
    if failure is not None:
        return problem(
            check,
            f"of {pairs} more pages one failed: {failure}",
            "One of several nodes differs: look at each without the load balancer",
        )
    if strangers:
        return problem(
            check,
            f"{strangers} of {pairs} websockets got another session than their page",
            "They reach different processes that do not share sessions: give all nodes one --redis-url "
            "and one --redis-namespace (bokeh serve --num-procs cannot do this)",
        )
    return good(check, f"{pairs} of {pairs} websockets found the session of their page")


def judge_origin(origin: str, failure: ClientError | None) -> Finding:
    """The finding for a page of another site that embeds the app."""
    if failure is None:
        return good("origin", f"pages of {origin} may embed the app")
    if isinstance(failure, Refused):
        return problem("origin", f"pages of {origin} may not embed the app: {failure}", _allow(origin))
    return problem("origin", f"from {origin}: {failure}", "Look at the logs of the server and of the proxy")


def judge_heads(accepted: int, refused_at: int | None, why: str) -> Finding:
    """The finding for the size of cookies that reach the server."""
    check = "headers"
    if refused_at is None:
        return good(check, f"{accepted} KB of cookies get through")
    what = f"{refused_at} KB of cookies are refused ({why})"
    mend = f"Let the proxy take longer heads; the server itself has --max-head-size. {HEAD}"
    return problem(check, what, mend) if refused_at <= COMMON_HEAD else doubt(check, what, mend)


def judge_body(megabytes: int, answer: Answer | Unreachable) -> Finding:
    """The finding for a body of this size; a page takes none, so the server's own refusal is a good sign."""
    check = "bodies"
    if isinstance(answer, Unreachable):
        why = f"the connection ended: {answer}"
    elif answer.status == 413 and answer.text.strip():
        why = f"status 413 with a page that is not the server's: {_words(answer.text)}"
    else:
        return good(check, f"{megabytes} MB of a body get through")
    mend = f"Files that widgets upload take another way; for forms of an app's own let the proxy take more. {BODY}"
    return doubt(check, f"{megabytes} MB of a body are refused ({why})", mend)


def _words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())[:60]


def judge_idle(patience: float, cut: float | None) -> Finding:
    """The finding for a websocket on which neither side sends anything."""
    if cut is None:
        return good("idle", f"a quiet websocket stayed open for {patience:g} s")
    return problem(
        "idle",
        f"a quiet websocket was cut after {cut:.0f} s",
        f"A timeout on the way is shorter than the ping; or a smaller --keep-alive. {IDLE}",
    )


def _allow(origin: str) -> str:
    return (
        f"Start the server with --allow-websocket-origin {urlsplit(origin).netloc}; let a proxy pass the Host header "
        f"on with its port. {HOST}"
    )
