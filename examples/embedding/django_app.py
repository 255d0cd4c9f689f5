"""A Django site, in one file, whose visitors log in once: the apps accept Django's login.

Django signs a cookie with the visitor's name. The embedded script is loaded with credentials, so the cookie goes to the
server as well, whose auth module (`django_auth.py`, beside this file) checks it with the same key.

    export DJANGO_SECRET_KEY=…
    aperture serve examples/apps/sliders.py --auth-module examples/embedding/django_auth.py \\
        --allow-websocket-origin localhost:8000
    python examples/embedding/django_app.py --server http://localhost:5006/sliders --port 8000

Use `localhost` for both, or two hosts of one domain and `domain=` of the cookie: browsers send it to no other site.
"""

from __future__ import annotations

import argparse
import os

from bokeh.embed import server_document
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.middleware.csrf import get_token
from django.template import engines
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

COOKIE = "apps_user"
DAY = 24 * 60 * 60
"""Seconds; how long a login lasts."""

PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>Bokeh in Django</title>
    <link rel="icon" href="data:,">
    <style>
      body { max-width: 1000px; margin: 40px auto; font-family: system-ui, sans-serif; color: #27313f; }
      p { color: #77808c; }
    </style>
  </head>
  <body>
    <h1>Bokeh in Django</h1>
    {% if user %}
      <p>Hello {{ user }}. The page is Django's, and so was the login.</p>
      {{ script | safe }}
    {% else %}
      <form method="post" action="/login">
        <input type="hidden" name="csrfmiddlewaretoken" value="{{ csrf }}">
        <label>Your name <input name="user" required></label>
        <button>Log in</button>
      </form>
    {% endif %}
  </body>
</html>
"""


@never_cache
def index(request: HttpRequest) -> HttpResponse:
    """The app for users who are logged in, a login form for others."""
    user = request.get_signed_cookie(COOKIE, default=None, max_age=DAY)
    script = server_document(settings.APP_URL, with_credentials=True) if user else ""
    page = engines["django"].from_string(PAGE)
    return HttpResponse(page.render({"user": user, "script": script, "csrf": get_token(request)}, request))


@require_POST
def login(request: HttpRequest) -> HttpResponse:
    """Takes any name, where a real site asks for a password."""
    answer = HttpResponseRedirect("/")
    answer.set_signed_cookie(COOKIE, request.POST["user"], max_age=DAY, httponly=True, samesite="Lax")
    return answer


urlpatterns = [path("", index), path("login", login)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://localhost:5006/sliders", help="URL of the app to embed")
    parser.add_argument("--host", default="localhost", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    options = parser.parse_args()
    if not os.environ.get("DJANGO_SECRET_KEY"):
        parser.error("not set in the environment: DJANGO_SECRET_KEY")
    settings.configure(
        SECRET_KEY=os.environ["DJANGO_SECRET_KEY"],
        ALLOWED_HOSTS=[options.host],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        APP_URL=options.server,
    )
    execute_from_command_line(["django", "runserver", "--noreload", f"{options.host}:{options.port}"])


if __name__ == "__main__":
    main()
