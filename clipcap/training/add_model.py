"""A model that was made elsewhere becomes one of the lake: imported weights, the hub's layout, another lake's model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from clipcap import __version__
from clipcap.errors import ModelError
from clipcap.storage.commit import writing_folder
from clipcap.storage.entries import Recorder
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import EntryIndex
from clipcap.storage.records import Entry

_FACTS = ("mapper", "language_model", "encoder", "encoder_hash", "features", "clip_dim", "prefix_length", "tuned")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")


def add_model(lake: Lake, folder: Path, name: str = "", run_id: str = "") -> tuple[Entry, bool]:
    """Copies a model folder into the lake, as an output of the train stage that learned from no batch of it.

    It is loaded once, so that what a night could not use is refused now. Its id is ``<name>-<mapper>-<hash8>``.

    Args:
        name: what its id begins with; the folder's name by default.

    Returns:
        the entry, which is recorded and not yet published; and whether it is new.

    Raises:
        CheckpointError: it is no model folder, or its files do not fit each other.
        ModelError: it names no encoder, its language model cannot be had, or the name will not do.
    """
    from clipcap.model.checkpoint import CONFIG, load_captioner, weights_hash

    key = weights_hash(folder)
    captioner = load_captioner(folder)
    settings = captioner.settings
    if not settings.encoder:
        raise ModelError(
            f"{folder} does not say which encoder it reads, so nothing could be embedded for it: import it again with "
            "`clipcap import-weights … --encoder NAME`"
        )
    name = name or folder.resolve().name.lower()
    if not _NAME.fullmatch(name):
        raise ModelError(f"{name!r} cannot begin a model's id: give a --name of a-z, 0-9, - and _, at most 41 of them")
    model_id = f"{name}-{settings.mapper}-{key[:8]}"
    if known := EntryIndex(lake).find(f"train/{model_id}", key):
        return known, False
    with Recorder(lake, "train", f"train/{model_id}", key, run_id, model_id=model_id) as out:
        with writing_folder(lake.model(model_id)) as aside:
            shutil.copytree(folder, aside, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
            renamed = settings.model_copy(update={"model_id": model_id})  # captions bear the name that is stored there
            (aside / CONFIG).write_text(renamed.model_dump_json(indent=1) + "\n", encoding="utf-8")
        out.meta |= {
            **settings.model_dump(include=set(_FACTS)),
            "parameters": sum(p.numel() for p in captioner.parameters()),
            "batch_ids": [],
            "start_model_id": "",
            "added_from": folder.resolve().name,
            "clipcap_version": __version__,
        }
        for file in sorted(lake.model(model_id).rglob("*")):
            if file.is_file():
                out.add("model", file)
    return out.entry, True
