"""Every lifecycle hook, each written to the file named in HOOKS with the process it ran in."""

import os
from pathlib import Path


def _note(*words):
    with Path(os.environ["HOOKS"]).open("a") as hooks:
        hooks.write(" ".join(str(word) for word in (*words, os.getpid())) + "\n")


def on_server_loaded(server_context):
    _note("loaded", "-")


def on_server_unloaded(server_context):
    _note("unloaded", "-")


def on_session_created(session_context):
    session_context.note = "left by on_session_created"
    _note("created", session_context.id)


def on_session_destroyed(session_context):
    assert session_context.note == "left by on_session_created"
    _note("destroyed", session_context.id)


def process_request(request):
    return {"greeting": "hello " + request.arguments.get("name", [b"nobody"])[0].decode()}
