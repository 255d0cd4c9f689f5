"""Every target, by the name that the command line has for it."""

from __future__ import annotations

from fuzz.deflated_messages import DEFLATED
from fuzz.fragments import FRAGMENTS
from fuzz.heads import HEADS
from fuzz.origin_headers import ORIGINS
from fuzz.patches import PATCHES
from fuzz.session_ids import SESSION_IDS
from fuzz.target import Target
from fuzz.token_texts import TOKENS
from fuzz.websocket_frames import FRAMES
from fuzz.wire_records import ENVELOPES, NODE_MESSAGES

__all__ = ["TARGETS"]

_ALL = (HEADS, SESSION_IDS, FRAMES, DEFLATED, FRAGMENTS, TOKENS, ORIGINS, ENVELOPES, NODE_MESSAGES, PATCHES)

TARGETS: dict[str, Target] = {target.name: target for target in _ALL}
