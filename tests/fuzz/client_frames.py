"""Frames of clients, compressed ones too: ours beside a slow reader written from RFC 6455 and RFC 7692."""

from __future__ import annotations
