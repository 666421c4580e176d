"""The places Firebreak writes to must lie outside of everything it watches."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from firebreak.errors import SourceError
from firebreak.settings import Settings, database_file
from firebreak.yaml_source import Fields, Node

if TYPE_CHECKING:
    from firebreak.inventory import Inventory


def keep_out_of_models(inventory: "Inventory", fields: Fields, settings: Settings) -> None:
    """Refuse a place of our own in a model: writing there would change what is watched.

    Raises: SourceError where that place is named; where the model is, when it is not in the file.
    """
    guarded = [
        (model, kind, path)
        for model in inventory.models
        for kind in ("path", "archive", "reference")
        if (path := getattr(model, kind)) is not None
    ]
    for name, place, where in _own_places(inventory, fields.node.value, settings):
        for model, kind, path in guarded:
            if _lies_in(place, path):
                raise SourceError(
                    where or model.where,
                    f"{name} {str(place)!r} lies inside the {kind} of model {model.id!r}, "
                    f"{str(path)!r}",
                    "name a place outside of it",
                )


def _own_places(
    inventory: "Inventory", document: Mapping[str, Node], settings: Settings
) -> Iterator[tuple[str, Path, str]]:
    """What Firebreak writes to: name, path, and where the file says so; empty when it does not."""
    home, database = document.get("home"), document.get("database_url")
    yield "home", inventory.home, home.where if home and not settings.home else ""
    if file := database_file(inventory.database_url):
        yield "database", file, database.where if database and not settings.database_url else ""
    nodes = document["channels"].items() if inventory.channels else []
    for channel, node in zip(inventory.channels, nodes, strict=True):
        if channel.kind == "file" and channel.path is not None:
            yield f"channel {channel.id!r}", channel.path, node.value["path"].where


def _lies_in(place: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it, as written or after following links."""
    return any(
        Path(resolve(place)).is_relative_to(resolve(folder))
        for resolve in (os.path.abspath, os.path.realpath)
    )
