"""What the handlers of a worker share, put together once in `aperture.worker.worker`."""

from __future__ import annotations

from dataclasses import dataclass

from aperture.config.settings import Settings
from aperture.protocol.tokens import Tokens
from aperture.worker.collector import GarbageCollector
from aperture.worker.http.allowed_origins import AllowedOrigins
from aperture.worker.http.assets import Departures
from aperture.worker.http.resources import Extensions, PageResources
from aperture.worker.session.store import SessionStore
from aperture.worker.session.warm import WarmSessions
from aperture.worker.session_access import SessionAccess
from aperture.worker.ws.sockets import OpenSockets

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one worker that requests need."""

    settings: Settings
    tokens: Tokens
    store: SessionStore
    access: SessionAccess
    collector: GarbageCollector
    resources: PageResources
    extensions: Extensions
    origins: AllowedOrigins
    sockets: OpenSockets
    warm: WarmSessions
    departures: Departures
