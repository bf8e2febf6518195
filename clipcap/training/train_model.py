"""The train stage: the embeddings and captions of batches to one model in the lake."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from clipcap import __version__
from clipcap.config import TrainConfig
from clipcap.embedding.store import EmbeddingInfo, read_embeddings
from clipcap.errors import DataError, ModelError
from clipcap.storage.commit import writing_folder
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry
from clipcap.training.machine import EnergyMeter, device_name

if TYPE_CHECKING:
    from clipcap.training.examples import Pairs
    from clipcap.training.progress import Progress

VERSION = 2
TRAIN_SPLITS = ("train", "restval")


@dataclass(frozen=True)
class Shard:
    """What training, captioning and evaluation know of a shard: its download and its embeddings."""

    download: Entry
    embed: Entry


def train_key(
    shards: Sequence[Shard], config: TrainConfig, start: Entry | None = None, leave_out: Collection[str] = ()
) -> str:
    """Cache key: embeddings, captions and splits (all in the shard's parquet), settings, a local language model.

    Args:
        start: the model whose weights training goes on from.
        leave_out: keys of images that are not learned from.
    """
    inputs = [(s.embed.file("embeddings").sha256, s.download.file("shard").sha256) for s in shards]
    identity = []
    if config.language_model.name != "scratch" and Path(config.language_model.name).expanduser().exists():
        from clipcap.model.pretrained import language_model_identity

        identity = [language_model_identity(config.language_model.name)]
    if start or leave_out:
        identity.append(digest([weights_digest(start) if start else "", sorted(leave_out)]))
    return digest([VERSION, sorted(inputs), config.model_dump(), *identity])


def model_id_of(dataset: str, config: TrainConfig, key: str) -> str:
    return f"{dataset}-{config.mapper}-{key[:8]}"


def weights_digest(train: Entry) -> str:
    """Identifies all that decides a model's captions, from the hashes in its entry; nothing is loaded."""
    log = ("training.jsonl", "metrics.json", "MODEL_CARD.md")
    return digest(sorted((f.path, f.sha256) for f in train.files if not f.path.endswith(log)))


def read_pairs(
    lake: Lake, shards: Sequence[Shard], splits: Sequence[str], leave_out: Collection[str] = ()
) -> tuple[Pairs, EmbeddingInfo]:
    """What models read, (N, C) or (N, L, C), and captions of all embedded images of ``splits`` that have a caption."""
    leave_out = frozenset(leave_out)
    from clipcap.training.examples import Pairs

    captions: dict[str, list[str]] = {}
    for path in lake.absolute_all(s.download.file("shard").path for s in shards):
        table = pq.read_table(path, columns=["sample_key", "captions", "split"])
        for row in table.to_pylist():
            if row["split"] in splits and row["captions"] and row["sample_key"] not in leave_out:
                captions[row["sample_key"]] = row["captions"]
    stored = read_embeddings(lake.absolute_all(s.embed.file("embeddings").path for s in shards), only=captions)
    return Pairs(stored.features, [captions[key] for key in stored.keys]), stored.info


def train_model(
    lake: Lake,
    model_id: str,
    shards: Sequence[Shard],
    config: TrainConfig,
    key: str,
    run_id: str = "",
    device: str = "cpu",
    on_step: Callable[[Progress], None] | None = None,
    start: Entry | None = None,
    leave_out: Collection[str] = (),
) -> Entry:
    """Trains on splits train and restval, validates on val, and commits the best model.

    A training of the same key that was killed goes on from its last checkpoint (below the lake's scratch folder).

    Args:
        start: a model of the lake whose weights are the first ones; of the same architecture and encoder.
        leave_out: keys of images that are not learned from, because models are judged on them.

    Raises:
        DataError: no captioned, embedded image in the training splits.
        ModelError: the language model cannot be found, ``start`` does not fit, or the loss is not finite.
    """
    from clipcap.cards.model_card import training_card
    from clipcap.training.train import train

    with Recorder(lake, "train", f"train/{model_id}", key, run_id, model_id=model_id) as out:
        pairs, info = read_pairs(lake, shards, TRAIN_SPLITS, leave_out)
        if not pairs.captions:
            raise DataError(
                "nothing to train on: no embedded image of split train has a caption; give the rows captions and "
                'splits, or set dataset.default_split = "train"'
            )
        if info.normalized and not config.normalize:
            raise DataError("the embeddings were imported and are normalised: set train.normalize = true")
        validation, _ = read_pairs(lake, shards, ("val",))
        unfinished = lake.scratch / "training" / f"{model_id}-{key[:12]}"
        start_folder = _weights_of(lake, start, config) if start else None
        with writing_folder(lake.model(model_id)) as folder:
            with EnergyMeter(device) as meter:
                if config.processes > 1:
                    from clipcap.training.launch import train_in_processes

                    result = train_in_processes(
                        lake, model_id, shards, config, folder, unfinished, device, on_step, start_folder, leave_out
                    )
                else:
                    result = train(
                        pairs, validation, config, folder, model_id=model_id, encoder=info.encoder,
                        encoder_hash=info.encoder_hash, features=info.features, device=device,
                        resume_folder=unfinished, on_step=on_step, start_folder=start_folder,
                    )  # fmt: skip
            out.meta |= {
                "mapper": config.mapper,
                "language_model": config.language_model.name,
                "encoder": info.encoder,
                "encoder_hash": info.encoder_hash,
                "features": info.features,
                "clip_dim": info.input_dim,
                "prefix_length": config.prefix_length,
                "tuned": config.language_model.tune or config.language_model.name == "scratch",
                "parameters": result.parameters,
                "best_val_loss": result.best_loss,
                "best_val_cider": result.best_cider,
                "epochs": result.epochs,
                "train_images": len(pairs.captions),
                "train_captions": sum(map(len, pairs.captions)),
                "val_images": len(validation.captions),
                "batch_ids": sorted(
                    {s.download.meta["batch_id"] for s in shards} | set(start.meta["batch_ids"] if start else [])
                ),
                "start_model_id": start.meta["model_id"] if start else "",
                "left_out": len(leave_out),
                "embeddings": [s.embed.file("embeddings").path for s in shards],
                "device": device_name(device),
                "energy": meter.estimate(),
                "clipcap_version": __version__,
            }
            card = training_card(out.meta, config.model_dump(mode="json"), folder)
            (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        for file in sorted(lake.model(model_id).rglob("*")):
            if file.is_file():
                out.add("model", file)
    shutil.rmtree(unfinished, ignore_errors=True)
    return out.entry


def _weights_of(lake: Lake, start: Entry, config: TrainConfig) -> Path:
    """The folder of the model to go on from; its settings are compared with these when it is read.

    Raises:
        ModelError: it is of another language model, which a stored one does not say of itself.
    """
    if start.meta["language_model"] != config.language_model.name:
        raise ModelError(
            f"training cannot go on from {start.meta['model_id']}: its language model is "
            f"{start.meta['language_model']!r}, and {config.language_model.name!r} is asked for. Set retrain.start = "
            '"fresh", or train with the settings of that model'
        )
    return lake.at_hand(lake.model(start.meta["model_id"]))
