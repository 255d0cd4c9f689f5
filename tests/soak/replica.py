"""A document as a viewer has it, in plain JSON: Bokeh's own would cost more than all that is tested.

It knows what `apps/soaked.py` does: new values, models in them, streamed rows.
"""

from __future__ import annotations

from typing import Any

from support.plain_models import models_in, plain

__all__ = ["Replica"]

_Attributes = dict[str, Any]


class Replica:
    """One copy.

    Args:
        doc: as in the answer to a pull.
    """

    def __init__(self, doc: dict[str, Any]) -> None:
        self._by_id: dict[str, _Attributes] = {}
        self._ids: dict[str, str] = {}
        for model in models_in(doc["roots"]):
            self._learn(model)

    def _learn(self, model: dict[str, Any]) -> None:
        attributes = self._by_id[model["id"]] = model.get("attributes", {})
        if "name" in attributes:
            self._ids[attributes["name"]] = model["id"]

    def id(self, name: str) -> str:
        """Of a model, by its name."""
        return self._ids[name]

    def attributes(self, name: str) -> _Attributes:
        """Of a model, by its name."""
        return self._by_id[self._ids[name]]

    def name(self, model_id: str) -> str:
        """Of a model, by its id; empty if it has none.

        Raises:
            KeyError: there is no such model.
        """
        name: str = self._by_id[model_id].get("name", "")
        return name

    # What the app shows

    def cell(self, who: int) -> int:
        """The value of somebody's cell."""
        value: int = self.attributes(f"cell-{who}").get("value", 0)
        return value

    def columns(self, name: str) -> dict[str, list[Any]]:
        """The data of a source."""
        attributes = self.attributes(name)
        data: dict[str, list[Any]] = plain(attributes["data"])
        attributes["data"] = data
        return data

    def shelf(self) -> list[str]:
        """The names of what was added, oldest first."""
        return [self.name(child["id"]) for child in self.attributes("shelf").get("children", [])]

    def dump(self, cells: int) -> dict[str, Any]:
        """All that must be the same for everybody, once nobody changes it. Not notes: one's own are there at once."""
        return {
            "cells": [self.cell(who) for who in range(cells)],
            "log": self.columns("log"),
            "shelf": self.shelf(),
        }

    # Changes

    def apply(self, event: dict[str, Any]) -> None:
        """Apply one event of a patch.

        Raises:
            KeyError: it changes a model that is not there.
            ValueError: it is of a kind that the app does not cause.
        """
        kind = event["kind"]
        attributes = self._by_id[event["model"]["id"]]
        if kind == "ModelChanged":
            if not isinstance(event["new"], int):
                for model in models_in(event["new"]):
                    self._learn(model)
            attributes[event["attr"]] = event["new"]
        elif kind == "ColumnsStreamed":
            columns = attributes["data"] = plain(attributes["data"])
            for column, added in plain(event["data"]).items():
                columns[column].extend(added)
                if event["rollover"] is not None:
                    del columns[column][: -event["rollover"]]
        else:
            raise ValueError(f"the app causes no {kind}")
