"""The auth module for `aperture serve` beside `django_app.py`: it takes the cookie that Django has signed."""

from __future__ import annotations

import os

from django.conf import settings
from django.http import HttpRequest
from tornado.web import RequestHandler

COOKIE = "apps_user"
DAY = 24 * 60 * 60

login_url = os.environ.get("DJANGO_URL", "http://localhost:8000/")

if not settings.configured:
    settings.configure(SECRET_KEY=os.environ["DJANGO_SECRET_KEY"])


def get_user(request_handler: RequestHandler) -> str | None:
    """The visitor's name, if Django wrote it there less than a day ago."""
    request = HttpRequest()
    request.COOKIES[COOKIE] = request_handler.get_cookie(COOKIE, "")
    return request.get_signed_cookie(COOKIE, default=None, max_age=DAY)
