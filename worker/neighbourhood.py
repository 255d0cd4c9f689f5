"""What the relay asks of the rest of a worker."""

from __future__ import annotations

from aperture.protocol.closing import SERVICE_RESTART
from aperture.worker.gateway_link import GatewayLink
from aperture.worker.http.render import render
from aperture.worker.service import WorkerService
from aperture.worker.session.session import Session

__all__ = ["WorkerNeighbourhood"]


class WorkerNeighbourhood:
    """An `aperture.worker.relay.cluster.Neighbourhood`.

    The cluster is needed to make the service, and the service by the cluster once it has started: `service` is set in
    between.

    Args:
        link: to the gateway; None where there is none.
    """

    def __init__(self, link: GatewayLink | None) -> None:
        self._link = link
        self.service: WorkerService | None = None

    @property
    def max_message_size(self) -> int:
        return self._made().services.settings.websocket_max_message_size

    def find_session(self, app: str, session_id: str) -> Session | None:
        service = self._made()
        host = service.hosts.get(app)
        return None if host is None else service.store.find(host, session_id)

    def sessions(self) -> list[Session]:
        return list(self._made().store)

    async def drop_session(self, session: Session) -> None:
        await self._made().store.drop(session, SERVICE_RESTART, "the session has moved")

    def render(self, session: Session, kind: str, arguments: dict[str, str]) -> str:
        return render(self._made().services.resources, session, kind, arguments)

    async def announce(self, session_id: str) -> None:
        if self._link is not None:
            await self._link.announce(session_id)

    def retract(self, session_id: str) -> None:
        if self._link is not None:
            self._link.retract(session_id)

    def _made(self) -> WorkerService:
        if self.service is None:
            raise AssertionError("the cluster starts after the service is made")
        return self.service
