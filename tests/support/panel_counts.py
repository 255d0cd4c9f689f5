"""What Panel counts and serves of its sessions, as a visitor reads it from whichever worker answers.

Nothing here imports Panel, which would change Bokeh under the tests: documents are read as JSON.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from support.fetch import fetch
from support.panel_features import READY
from support.patience import POLL
from support.wire import ConnectionEnded, Viewer
from tornado.httpclient import HTTPClientError

__all__ = ["Page", "page_open", "session_info", "style_sheet", "total_shown"]


def style_sheet(content: Any) -> str:
    """The address of the style sheet of `components.py`, in its document; relative to the app's."""
    found = re.search(r"components/bokeh_app[^'\"]*styled\.css[^'\"]*", str(content))
    assert found, content
    return found[0]


def session_info(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """What `/rest/session_info` of the server at this URL answers."""
    answer = fetch(f"{url}/rest/session_info", headers=headers)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json()["session_info"]


def total_shown(found: Any) -> float | None:
    """The number that Panel's admin page shows as that of all sessions so far, of which itself is one."""
    parts = found if isinstance(found, list) else found.values() if isinstance(found, dict) else ()
    if isinstance(found, dict) and found.get("title") == "Total Sessions":
        value: float = found["value"]
        return value
    return next((total for part in parts if (total := total_shown(part)) is not None), None)


@dataclass(slots=True)
class Page:
    """A page that is open, and comes back whenever its websocket ends, as BokehJS does.

    Args:
        url: of the websocket.
        token: of the page.
        headers: of each handshake.
    """

    url: str
    token: str
    headers: Mapping[str, str] | None = None
    pulled: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    """The document as JSON, each time that it was pulled."""

    async def stay(self) -> None:
        """Say once that the page is ready, and go on until cancelled."""
        # By which a browser's websocket is known: what comes back with it was ready before.
        headers = {"Origin": f"http://{urlsplit(self.url).netloc}", **(self.headers or {})}
        ready = False
        while True:
            with suppress(ConnectionEnded, HTTPClientError, OSError):
                async with Viewer.open(self.url, self.token, headers) as viewer:
                    content = (await viewer.request("PULL-DOC-REQ", {})).content
                    if not ready:
                        # With `--durability ack`, what is answered has been stored.
                        ready = (await viewer.patch(READY)).msgtype == "OK"
                    self.pulled.put_nowait(content)
                    await viewer.wait_closed()
            await asyncio.sleep(POLL)


@asynccontextmanager
async def page_open(url: str, token: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Page]:
    """A page that has its document, open until the end of the block."""
    page = Page(url, token, headers)
    staying = asyncio.create_task(page.stay())
    try:
        await page.pulled.get()
        yield page
    finally:
        staying.cancel()
        with suppress(asyncio.CancelledError):
            await staying
