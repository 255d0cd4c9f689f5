"""A viewer that keeps the document as the plain JSON it came in, so that hundreds of them fit into one process.

Bokeh's own `Document` takes some 30 ms to make of even a small document. A browser has a processor of its own for that;
a test that stands for a hundred browsers does not, and would measure itself.
"""

from __future__ import annotations

from typing import Any

from support.plain_models import models_in, plain
from support.wire import Viewer, WireMessage

__all__ = ["Onlooker"]

_Attributes = dict[str, Any]


class Onlooker(Viewer):
    """A `Viewer` whose models are dictionaries. It knows values of JSON and mappings, and new values of attributes."""

    _by_name: dict[str, tuple[str, _Attributes]]
    _by_id: dict[str, _Attributes]

    async def look(self) -> None:
        """Pull the document; from now on patches are applied to it."""
        reply = await self.request("PULL-DOC-REQ", {})
        assert reply.msgtype == "PULL-DOC-REPLY", reply.content
        self._by_name, self._by_id = {}, {}
        for model in models_in(reply.content["doc"]["roots"]):
            attributes = self._by_id[model["id"]] = model.get("attributes", {})
            if "name" in attributes:
                self._by_name[attributes["name"]] = model["id"], attributes

    async def next_message(self) -> WireMessage:
        message = await super().next_message()
        if message.msgtype == "PATCH-DOC" and hasattr(self, "_by_id"):
            for event in message.events:
                self._apply(event)
        return message

    def _apply(self, event: dict[str, Any]) -> None:
        attributes = self._by_id.get(event["model"]["id"])
        assert attributes is not None, f"a patch for a model that was not in the document: {event}"
        kind = event["kind"]
        assert kind in ("ModelChanged", "ColumnDataChanged"), f"an onlooker does not know {kind}"
        attributes[event["attr"]] = event["new" if kind == "ModelChanged" else "data"]

    def value(self, name: str, attr: str) -> Any:
        return plain(self._by_name[name][1][attr])

    async def set(self, name: str, attr: str, value: object) -> WireMessage:
        model_id, _ = self._by_name[name]
        return await self.patch([{"kind": "ModelChanged", "model": {"id": model_id}, "attr": attr, "new": value}])
