"""Writes a byte for each session that was discarded: both servers tell of it through this hook, and only through it."""

# ruff: noqa: ARG001  Bokeh decides the arguments of callbacks and hooks

import os


def on_session_destroyed(session_context):
    with open(os.environ["BENCH_GONE_FILE"], "ab") as gone:
        gone.write(b".")
