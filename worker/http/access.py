"""One line per request, without its query: tokens and session ids ride there, and a log is no place for them."""

from __future__ import annotations

import logging

from tornado.web import RequestHandler

__all__ = ["log_request"]

log = logging.getLogger(__name__)


def log_request(handler: RequestHandler) -> None:
    """Tornado's `log_function`: status, method, path, client address and milliseconds."""
    request = handler.request
    status = handler.get_status()
    level = logging.INFO if status < 400 else logging.WARNING if status < 500 else logging.ERROR
    log.log(
        level,
        "%d %s %s (%s) %.2fms",
        status,
        request.method,
        request.path,
        request.remote_ip,
        1000 * request.request_time(),
    )
