"""Writes a byte for each discarded session: this hook is the only sign of it that both servers give."""

# ruff: noqa: ARG001  Bokeh decides the arguments of callbacks and hooks

import os


def on_session_destroyed(session_context):
    with open(os.environ["BENCH_GONE_FILE"], "ab") as gone:
        gone.write(b".")
