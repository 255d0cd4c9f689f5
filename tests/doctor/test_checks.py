"""`aperture.doctor.checks`: what came back, and the finding that is printed."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from aperture.doctor import checks
from aperture.doctor.findings import Verdict
from aperture.doctor.visit import Answer, Unreachable
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
from aperture.protocol.tokens import Tokens

URL = "https://example.org/x/app"
NOW = time.time()
"""When the token was made. The tests that compare clocks may run long after it, behind all others."""
TOKEN = Tokens(None, False, 300).issue("session")
PAGE = f'<script src="/x/static/js/bokeh.min.js?v=1"></script> [{{"token":"{TOKEN}","roots":{{"p1":"e1","p2":"e2"}}}}]'


def answer(status: int = 200, text: str = PAGE, url: str = URL, **headers: str) -> Answer:
    return Answer(url, status, headers, text)


def test_a_page_tells_its_token_and_its_roots() -> None:
    """The token and the ids of the models that the page shows."""
    assert answer().token == TOKEN
    assert answer().roots == {"p1", "p2"}


@pytest.mark.parametrize(
    ("status", "text", "headers", "said"),
    [
        (200, "<h1>hello</h1>", {}, "not an app's"),
        (404, "", {}, "no app"),
        (302, "", {"Location": "/login?next=%2Fx"}, "log in"),
        (301, "", {"Location": "http://example.org/x/app"}, "leads to http://example.org/x/app"),
        (301, "", {"Location": "https://example.org/x/app/"}, "leads to"),
        (401, "", {}, "a login"),
        (403, "No bokeh-session-id provided", {}, "No bokeh-session-id"),
        (502, "", {}, "proxy"),
        (500, "", {}, "failed"),
        (418, "", {}, "418"),
    ],
)
def test_what_is_no_page_is_a_problem_with_a_way_out(
    status: int, text: str, headers: dict[str, str], said: str
) -> None:
    """Each way not to be an app's page has a sentence of its own, and something to do."""
    found = checks.judge_page(answer(status, text, **headers), None)
    assert found.verdict is Verdict.PROBLEM
    assert said in found.what
    assert found.mend


def test_who_missed_the_app_is_shown_the_apps() -> None:
    """The index above lists them."""
    index = answer(
        200, '<a href="/x/one"></a><a href="two"></a><a href="https://elsewhere.org/y"></a>', "https://example.org/x/"
    )
    found = checks.judge_page(answer(404, ""), index)
    assert "https://example.org/x/one, https://example.org/x/two" in found.mend
    assert "elsewhere" not in found.mend


@pytest.mark.parametrize("reason", ["name", "refused", "network", "certificate", "not-tls", "silent", "cut"])
def test_every_way_of_not_answering_is_explained(reason: str) -> None:
    """With what the system said, and what to do."""
    found = checks.judge_unreachable(URL, Unreachable(reason, "said so"))
    assert found.verdict is Verdict.PROBLEM
    assert "said so" in found.what
    assert found.mend


def test_scripts_are_looked_for_where_the_page_says() -> None:
    """Addresses of its own server, in full; one that does not answer means a wrong prefix."""
    page = answer()
    (script,) = checks.names_app(page)
    assert script == "https://example.org/x/static/js/bokeh.min.js?v=1"
    assert checks.judge_asset(page, script, answer(200, "", script)).verdict is Verdict.GOOD
    assert "--prefix" in checks.judge_asset(page, script, answer(404, "", script)).mend
    assert "--use-xheaders" in checks.judge_asset(page, script.replace("https", "http"), None).mend


CDN = '<script type="text/javascript" src="https://cdn.bokeh.org/bokeh/release/bokeh-3.9.2.min.js"></script>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CDN, "elsewhere: cdn.bokeh.org"),
        (CDN + CDN + CDN.replace("cdn.bokeh.org", "cdn.corp"), "elsewhere: cdn.bokeh.org, cdn.corp"),
        ('<script>image.src="/x/static/js/logo.js"</script>', "includes its scripts"),
    ],
    ids=["cdn", "two", "inline"],
)
def test_a_page_may_have_its_scripts_from_elsewhere_or_in_itself(text: str, said: str) -> None:
    """As `BOKEH_RESOURCES=cdn` and `inline` have it: nothing of it is this server's, and nothing is wrong."""
    page = answer(200, text)
    assert checks.names_app(page) == []
    found = checks.judge_elsewhere(page)
    assert found.verdict is Verdict.GOOD
    assert said in found.what


def test_scripts_from_elsewhere_must_be_as_safe_as_the_page() -> None:
    """Browsers refuse plain HTTP in a page of https, whichever server it comes from."""
    insecure = CDN.replace("https:", "http:")
    assert "which browsers refuse" in checks.judge_elsewhere(answer(200, PAGE + insecure)).what
    assert checks.judge_elsewhere(answer(200, insecure, "http://example.org/x/app")).verdict is Verdict.GOOD


@pytest.mark.parametrize(("ahead", "verdict"), [(0, Verdict.GOOD), (-120, Verdict.DOUBT), (400, Verdict.PROBLEM)])
def test_clocks_are_compared(ahead: float, verdict: Verdict) -> None:
    """A server that differs is doubtful; one whose token has expired when it comes cannot work."""
    assert checks.judge_clock(answer(Date=formatdate(NOW + ahead, usegmt=True)), NOW).verdict is verdict


def test_a_date_that_is_none_is_no_reason_to_fail() -> None:
    """Garbage in a header is not believed."""
    assert checks.judge_clock(answer(Date="yesterday"), NOW).verdict is Verdict.GOOD


@pytest.mark.parametrize(
    ("failure", "mend"),
    [
        (OriginRefused("origin", 403), "--allow-websocket-origin example.org"),
        (Refused("refused", 403), "--allow-websocket-origin example.org"),
        (NoSuchApp("no", 404), "/ws"),
        (NotLoggedIn("who", 302), "cookies"),
        (TokenRefused("signature", 403), "BOKEH_SECRET_KEY"),
        (NotAServer("too long", 431), "large_client_header_buffers"),
        (NotAServer("no upgrade", 400), "proxy_http_version"),
        (ServerGarbled("what"), "changes the messages"),
        (ServerSilent("nothing"), "hold websockets back"),
        (ClientError("other"), "logs"),
    ],
)
def test_every_way_to_lose_a_websocket_has_its_mending(failure: ClientError, mend: str) -> None:
    """By the class of what went wrong."""
    found = checks.judge_websocket(URL, failure)
    assert found.verdict is Verdict.PROBLEM
    assert mend in found.mend


def test_cookies_of_a_common_size_must_get_through() -> None:
    """Refusing 4 KB is a problem; refusing 16 KB may never be noticed."""
    assert checks.judge_heads(2, 4, "400").verdict is Verdict.PROBLEM
    assert checks.judge_heads(8, 16, "400").verdict is Verdict.DOUBT
    assert checks.judge_heads(16, None, "").verdict is Verdict.GOOD


def test_a_body_is_refused_by_whoever_has_a_page_for_that() -> None:
    """A server says that a page takes none; a proxy says that it is too large for itself."""
    assert checks.judge_body(2, answer(405, "405: Method Not Allowed")).verdict is Verdict.GOOD
    assert checks.judge_body(2, answer(413, "")).verdict is Verdict.GOOD
    refused = checks.judge_body(2, answer(413, "<html><h1>413 Request Entity Too Large</h1>\n<hr>nginx</html>"))
    assert refused.verdict is Verdict.DOUBT
    assert "413 Request Entity Too Large nginx" in refused.what
    assert "client_max_body_size" in refused.mend
    assert checks.judge_body(2, Unreachable("cut", "x")).verdict is Verdict.DOUBT


def test_strangers_and_silence_are_judged() -> None:
    """A websocket with another session, another site's origin, and one that is cut."""
    assert "--redis-url" in checks.judge_pairs(6, 1, None).mend
    assert checks.judge_pairs(6, 0, Unreachable("cut", "x")).verdict is Verdict.PROBLEM
    assert checks.judge_origin("https://a.org", OriginRefused("no", 403)).verdict is Verdict.PROBLEM
    assert "after 3 s" in checks.judge_idle(40, 3.2).what
    assert checks.judge_idle(40, None).verdict is Verdict.GOOD


def of_session(session_id: str) -> Answer:
    token = Tokens(None, False, 300).issue(session_id)
    return answer(200, f'[{{"token":"{token}"}}]', URL, **{"Referrer-Policy": "same-origin"})


def redirect(session_id: str, location: str = "?a=1&") -> Answer:
    return answer(303, "", f"{URL}?a=1", Location=f"{location}bokeh-session-id={session_id}")


ONE, OTHER = redirect("one"), redirect("other")
PAGE_OF_ONE = of_session("one")


@pytest.mark.parametrize(
    ("redirects", "pages", "said"),
    [
        ((ONE, OTHER), (PAGE_OF_ONE, PAGE_OF_ONE), "leads back"),
        ((ONE, ONE), (PAGE_OF_ONE, PAGE_OF_ONE), "two visitors are sent to one session"),
        ((redirect("one", "http://inside:5006/x/app?a=1&"), OTHER), (PAGE_OF_ONE, PAGE_OF_ONE), "another server"),
        ((redirect("one", "?"), OTHER), (PAGE_OF_ONE, PAGE_OF_ONE), "arguments"),
        ((ONE, OTHER), (PAGE_OF_ONE, of_session("third")), "leads to another one"),
        ((ONE, OTHER), (OTHER, OTHER), "leads to another one"),
        ((ONE, OTHER), (PAGE_OF_ONE, answer(text=PAGE_OF_ONE.text)), "Referrer-Policy"),
    ],
)
def test_urls_of_sessions_lead_back_to_them(
    redirects: tuple[Answer, Answer], pages: tuple[Answer, Answer], said: str
) -> None:
    """Unless something on the way keeps or rewrites them."""
    found = checks.judge_session_url(f"{URL}?a=1", redirects, pages)
    assert said in found.what
    assert bool(found.mend) is (found.verdict is not Verdict.GOOD)
    assert (found.verdict is Verdict.GOOD) is (said == "leads back")


@pytest.mark.parametrize(
    ("url", "word", "failure", "verdict"),
    [
        (URL, answer(204, ""), None, Verdict.GOOD),
        ("http://127.0.0.1:5006/app", answer(204, ""), None, Verdict.GOOD),
        ("http://example.org/app", answer(204, ""), None, Verdict.DOUBT),
        (URL, answer(405, ""), None, Verdict.DOUBT),
        (URL, Unreachable("cut", "cut"), None, Verdict.DOUBT),
        (URL, answer(204, ""), ServerSilent("nothing"), Verdict.PROBLEM),
    ],
)
def test_an_early_page_must_be_heard_and_get_its_session(
    url: str, word: Answer | Unreachable, failure: ClientError | None, verdict: Verdict
) -> None:
    """And browsers ask for one only by HTTPS, or on this machine."""
    assert checks.judge_early(url, word, failure).verdict is verdict


def test_one_session_for_two_visitors_is_a_problem() -> None:
    assert checks.judge_shared().verdict is Verdict.PROBLEM
