"""Options that several commands have, and the lake that they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipcap.errors import ConfigError, DataError, ModelError

DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", metavar="D", help="The lake's root (else the config's, CLIPCAP_DATA_DIR, ./data)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the orchestrator's log.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Overrides the config.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Land only the first N rows of the source.")]

state = {"debug": False}


def only_one(why: str, **given: object) -> None:
    """Refuses options that say different things.

    Args:
        why: what they have in common: "are forms of one result".
        given: options by their names (``as_of`` is --as-of), with what they were given.

    Raises:
        ConfigError: more than one of them was given.
    """
    found = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(found) > 1:
        raise ConfigError(f"{' and '.join(found)} {why}: give one of them")


def open_lake(data_dir: str | None, must_exist: bool = True) -> Any:
    from clipcap.storage.lake import Lake, resolve_data_dir

    lake = Lake(resolve_data_dir(data_dir))
    if must_exist and not lake.exists(lake.current):
        raise DataError(
            f"there is no lake at {lake.address}: name one with --data-dir or CLIPCAP_DATA_DIR{nearby()}, or make one "
            "with `clipcap run`"
        )
    return lake


def model_folder(model: str, data_dir: str | None) -> Path:
    """The folder of a model that is named by it, or by its id; for an empty text, of the one in production.

    Raises:
        ModelError: there is none of that name.
    """
    if model and (Path(model) / "config.json").is_file():
        return Path(model)
    if "/" in model:
        raise ModelError(
            f"{model} is no model's folder: it has no config.json. Name one that `clipcap import-weights` made, or a "
            "model's id"
        )
    lake = open_lake(data_dir)
    from clipcap.storage.manifest import read_current

    generation = read_current(lake)
    known = [entry.meta["model_id"] for entry in generation.of_stage("train")]
    wanted = model or generation.production_model_id
    if wanted not in known:
        raise ModelError(
            f"no model {wanted!r} in {lake.address}, and no folder of that name with a config.json; "
            f"there are: {', '.join(known) or 'none yet'}"
        )
    return Path(lake.at_hand(lake.model(wanted)))


def nearby() -> str:
    """The lake that `make run` leaves, where it is there."""
    return " (there is one: --data-dir data/sample)" if Path("data/sample/CURRENT").is_file() else ""
