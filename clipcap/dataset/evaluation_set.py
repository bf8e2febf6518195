"""The freeze stage: images of one split become an evaluation set that nothing changes any more.

Scores of two models can be compared only on the same images, and scores of next year with those of today only if the
images do not change when new data lands. A set is one Parquet file, created exclusively: whoever is second reads what
the first one wrote. Its images are learned from by no model that is trained against it, whatever split they land in
again: what counts is their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipcap.errors import DataError
from clipcap.storage.commit import commit, scratch_folder
from clipcap.storage.entries import Recorder, digest
from clipcap.storage.lake import Lake
from clipcap.storage.records import Entry, FileRecord

if TYPE_CHECKING:
    from clipcap.storage.manifest import EntryIndex
    from clipcap.training.train_model import Shard

VERSION = 1
STAGE = "freeze"

SCHEMA = pa.schema(
    [
        ("sample_key", pa.string()),
        ("batch_id", pa.string()),
        ("shard_id", pa.string()),
        ("sha256", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("split", pa.string()),
        ("source_split", pa.string()),
    ]
)
"""``captions`` are the references; ``split`` is the set's own (:func:`split_of`), under which its scores stand."""


def entry_id(name: str) -> str:
    return f"evaluation_set/{name}"


def split_of(name: str) -> str:
    """What stands as the split of scores on a set."""
    return f"frozen-{name}"


def freeze_key(shards: Sequence[Shard], split: str) -> str:
    """What a set was chosen from. A set that is there is used whatever it was chosen from."""
    return digest([VERSION, split, sorted(s.download.file("shard").sha256 for s in shards)])


def find_evaluation_set(index: EntryIndex, name: str) -> Entry | None:
    """The set of that name, whenever it was made, if its file stands."""
    return next((entry for entry in index.of_stage(STAGE) if entry.id == entry_id(name)), None)


def count_candidates(lake: Lake, shards: Sequence[Shard], split: str) -> int:
    """Images that a new set would have."""
    return len(_choose(lake, shards, split, "counted"))


def freeze(lake: Lake, name: str, shards: Sequence[Shard], split: str, key: str, run_id: str = "") -> Entry:
    """Makes a set of all embedded images of ``split`` that have references and are in no training split.

    Where the file is there already (another process was faster, or was killed before it recorded its entry), it is
    taken as it is.

    Raises:
        DataError: there is no such image.
    """
    path = lake.evaluation_set(name)
    with Recorder(lake, STAGE, entry_id(name), key, run_id, name=name, split=split_of(name)) as out:
        if not lake.exists(path):
            table = _choose(lake, shards, split, name)
            if not len(table):
                raise DataError(
                    f"nothing to freeze: no embedded image of split {split!r} has a reference caption and is in no "
                    "training split"
                )
            with scratch_folder(lake, "freeze") as folder:
                pq.write_table(table, folder / path.name)
                commit(folder / path.name, path, exclusive=True)
        stored = _read(lake.at_hand(path))
        out.meta |= {
            "images": len(stored),
            "references": int(pc.sum(pc.list_value_length(stored["captions"])).as_py()),
            "source_split": stored["source_split"][0].as_py(),
            "batch_ids": sorted(set(stored["batch_id"].to_pylist())),
        }
        out.add("evaluation_set", path)
    return out.entry


def read_evaluation_set(lake: Lake, evaluation_set: Entry) -> pa.Table:
    """All rows of a set.

    Raises:
        DataError: the file cannot be read, or holds nothing.
    """
    return _read(lake.absolute(evaluation_set.file("evaluation_set").path))


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"the evaluation set {path} cannot be read ({type(error).__name__}): bring the file back, or freeze a set "
            "of another name and set gate.evaluation_set"
        ) from None
    if not len(table):
        raise DataError(f"the evaluation set {path} holds no image: freeze one of another name")
    return table


def lake_shards(index: EntryIndex, batch_ids: Sequence[str] = ()) -> list[Shard]:
    """The embedded shards of a lake, each once, whichever encoder embedded it; of all batches by default.

    Raises:
        DataError: a batch that is not there, or has not been embedded.
    """
    from clipcap.training.train_model import Shard

    downloads = {(e.meta["batch_id"], e.meta["shard_id"]): e for e in index.of_stage("download")}
    embeds = {(e.meta["batch_id"], e.meta["shard_id"]): e for e in index.of_stage("embed")}
    found = [Shard(downloads[key], embeds[key]) for key in sorted(embeds) if key in downloads]
    known = {shard.embed.meta["batch_id"] for shard in found}
    if unknown := [batch_id for batch_id in batch_ids if batch_id not in known]:
        raise DataError(
            f"no embedded batch {', '.join(unknown)} in the lake; there are: {', '.join(sorted(known)) or 'none'}"
        )
    return [shard for shard in found if not batch_ids or shard.embed.meta["batch_id"] in batch_ids]


def leaked(lake: Lake, evaluation_set: Entry, shards: Sequence[Shard]) -> list[str]:
    """Keys of rows in training splits that are an image of the set, by key or by bytes; to be left out of training."""
    stored = read_evaluation_set(lake, evaluation_set)
    found = _in_training(lake, shards, stored)
    return sorted(found["sample_key"].to_pylist())


def evaluation_shards(lake: Lake, evaluation_set: Entry, shards: Sequence[Shard]) -> list[Shard]:
    """The shards that hold images of the set; what evaluation reads of their downloads are the set's references."""
    from clipcap.training.train_model import Shard

    keys = read_evaluation_set(lake, evaluation_set)["sample_key"].combine_chunks()
    record = evaluation_set.file("evaluation_set")
    references = FileRecord(kind="shard", path=record.path, sha256=record.sha256, size_bytes=record.size_bytes)
    batches = set(evaluation_set.meta["batch_ids"])
    found = []
    for shard in shards:
        if shard.embed.meta["batch_id"] in batches and pc.any(pc.is_in(_embedded(lake, shard), keys)).as_py():
            found.append(Shard(shard.download.model_copy(update={"files": [references]}), shard.embed))
    return found


def _embedded(lake: Lake, shard: Shard) -> pa.Array:
    """Keys of the shard's embedded images."""
    path = lake.absolute(shard.embed.file("embeddings").path)
    return pq.read_table(path, columns=["sample_key"])["sample_key"].combine_chunks()


def _choose(lake: Lake, shards: Sequence[Shard], split: str, name: str) -> pa.Table:
    """Rows of a new set, by key; of the same bytes only the first."""
    columns = ["sample_key", "batch_id", "shard_id", "sha256", "captions", "split"]
    parts = []
    for shard in shards:
        table = pq.read_table(lake.absolute(shard.download.file("shard").path), columns=columns)
        wanted = pc.and_(pc.equal(table["split"], split), pc.greater(pc.list_value_length(table["captions"]), 0))
        table = table.filter(wanted)
        if len(table):
            parts.append(table.filter(pc.is_in(table["sample_key"], _embedded(lake, shard))))
    if not parts:
        return SCHEMA.empty_table()
    table = pa.concat_tables(parts).sort_by("sample_key")
    seen: dict[str, int | None] = {h: None for h in _in_training(lake, shards, table)["sha256"].to_pylist()}
    is_new = [not h or seen.setdefault(h, number) == number for number, h in enumerate(table["sha256"].to_pylist())]
    table = table.filter(pa.array(is_new, pa.bool_()))
    source_split = pa.array([split] * len(table), pa.string())
    own = pa.array([split_of(name)] * len(table), pa.string())
    position = table.schema.get_field_index("split")
    return table.set_column(position, "split", own).append_column("source_split", source_split).cast(SCHEMA)


def _in_training(lake: Lake, shards: Sequence[Shard], images: pa.Table) -> pa.Table:
    """Rows (sample_key, sha256) of training splits that are one of ``images``.

    Imported embeddings came without the bytes of their images, so those have their keys alone.
    """
    from clipcap.training.train_model import TRAIN_SPLITS

    splits, keys = pa.array(TRAIN_SPLITS, pa.string()), images["sample_key"].combine_chunks()
    hashes = images["sha256"].filter(pc.not_equal(images["sha256"], "")).combine_chunks()
    found = [pa.schema([("sample_key", pa.string()), ("sha256", pa.string())]).empty_table()]
    for shard in shards:
        path = lake.absolute(shard.download.file("shard").path)
        table = pq.read_table(path, columns=["sample_key", "sha256", "split"])
        same = pc.or_(pc.is_in(table["sha256"], hashes), pc.is_in(table["sample_key"], keys))
        found.append(table.filter(pc.and_(pc.is_in(table["split"], splits), same)).select(["sample_key", "sha256"]))
    return pa.concat_tables(found)
