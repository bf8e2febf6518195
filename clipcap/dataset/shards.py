"""The project's shard: a webdataset tar sorted by key, and a Parquet row for each image in it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from clipcap.errors import ClipCapError, ShardError, TransientError
from clipcap.images import NAMES, open_image
from clipcap.storage.commit import commit_table, writing
from clipcap.storage.ledger import Outcome

if TYPE_CHECKING:
    from clipcap.config import DownloadConfig
    from clipcap.dataset.land import ShardJob

SCHEMA = pa.schema(
    [
        ("sample_key", pa.string()),
        ("batch_id", pa.string()),
        ("shard_id", pa.string()),
        ("image_url", pa.string()),
        ("member", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("size_bytes", pa.int64()),
        ("captions", pa.list_(pa.string())),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the downloader says of one row."""

    member: str
    """Its key in the downloader's tar."""
    is_ok: bool
    error: str
    sha256: str | None


def pack_shard(
    rows: pa.Table,
    fetched: dict[str, Fetched],
    raw_tars: list[Path],
    tar: Path,
    table: Path,
    job: ShardJob,
    config: DownloadConfig,
) -> list[Outcome]:
    """Commits the sorted tar and its parquet from what was downloaded.

    The bytes stay as they were served. An image is judged by its header alone: what is no image fails, what is
    smaller or larger than configured is filtered.

    Returns:
        One outcome for each of ``rows``.

    Raises:
        ShardError: bytes do not have the hash that the downloader computed.
        TransientError: the downloader's tar cannot be read, or what it reported is not all there.
    """
    outcomes: list[Outcome] = []
    kept: list[dict[str, Any]] = []
    with ExitStack() as stack, writing(tar) as aside:
        names = ", ".join(raw_tar.name for raw_tar in raw_tars)
        members = {}  # the downloader's key → the tar that has it, and where
        for raw_tar in raw_tars:
            raw = stack.enter_context(_open(raw_tar, "r:", TransientError, "try again"))
            found = (member for member in raw if not member.name.endswith(".json"))
            members.update({member.name.partition(".")[0]: (raw, member) for member in found})
        with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as packed:
            for row in sorted(rows.to_pylist(), key=lambda row: row["sample_key"]):
                key = row["sample_key"]
                if key not in fetched:
                    raise TransientError(f"the downloader says nothing of {key} ({row['url']}); try again")
                result, data = fetched[key], b""
                if result.is_ok:
                    if result.member not in members:
                        raise TransientError(f"{names} lacks the image of {key}, said to be there; try again")
                    raw, member_found = members[result.member]
                    stream = raw.extractfile(member_found)
                    data = stream.read() if stream else b""
                    if hashlib.sha256(data).hexdigest() != result.sha256:
                        raise ShardError(f"{names}: the bytes of {key} changed between download and packing")
                status, reason, facts = _judge(result, data, config)
                outcomes.append(Outcome(key, status, reason, row["url"]))  # type: ignore[arg-type]
                if status == "ok":
                    member = f"{key}.{facts['format']}"
                    entry = {
                        "sample_key": key, "batch_id": job.batch_id, "shard_id": job.shard_id,
                        "image_url": row["url"], "member": member, "sha256": result.sha256, **facts,
                        "size_bytes": len(data), "captions": row["captions"], "split": row["split"],
                    }  # fmt: skip
                    kept.append(entry)
                    _add(packed, member, data)
                    _add(packed, f"{key}.json", json.dumps(entry, ensure_ascii=False).encode())
    commit_table(pa.Table.from_pylist(kept, schema=SCHEMA), table)
    return outcomes


@contextmanager
def _open(tar: Path, mode: Literal["r:", "r|"], kind: type[ClipCapError], advice: str) -> Iterator[tarfile.TarFile]:
    """Opens a tar; that it is damaged, found now or while it is read, is told as an error of ``kind``."""
    try:
        with tarfile.open(tar, mode) as archive:
            yield archive
    except tarfile.TarError as error:
        raise kind(f"{tar} cannot be read to its end ({error}): {advice}") from None


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # no time and no owner: the same images give the same bytes
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _judge(result: Fetched, data: bytes, config: DownloadConfig) -> tuple[str, str, dict[str, Any]]:
    if not result.is_ok:
        return _why_not_fetched(result.error)
    try:
        with open_image(data) as image:
            width, height, name = image.width, image.height, (image.format or "").lower()
    except Image.DecompressionBombError:
        return "filtered", f"its header claims more than twice {Image.MAX_IMAGE_PIXELS} pixels", {}
    except Exception as error:  # Pillow raises many kinds for hostile headers
        shown = f"it begins with {data[:16]!r}" if data else "it is empty"
        if not isinstance(error, UnidentifiedImageError):
            shown += f" ({type(error).__name__})"
        return "failed", f"not an image of a known kind ({NAMES}): {shown}", {}
    if min(width, height) < config.min_image_size:
        return "filtered", f"{width} x {height} pixels, below the minimum edge of {config.min_image_size}", {}
    if width * height > config.max_image_pixels:
        return "filtered", f"{width} x {height} pixels, above the maximum of {config.max_image_pixels}", {}
    return "ok", "", {"width": width, "height": height, "format": "jpg" if name == "jpeg" else name}


def _why_not_fetched(error: str) -> tuple[str, str, dict[str, Any]]:
    """From the guard's words (clipcap.dataset.guard.errors)."""
    kind, _, reason = error.partition(": ")
    if kind == "opted out":
        return "opted_out", reason, {}
    if kind == "filtered":
        return "filtered", reason, {}
    if kind == "refused":
        return "failed", error, {}
    may_heal = ", may heal" if kind == "may heal" else ""
    return "failed", f"not downloaded{may_heal}: {reason if may_heal else error}", {}


def read_shard(tar: Path, table: Path) -> tuple[list[dict[str, Any]], Iterator[bytes]]:
    """The rows of a shard and, streamed in the same order, the bytes of each image.

    Raises:
        ShardError: while iterating, where the tar is damaged or does not hold what the parquet says.
    """
    rows = pq.read_table(table).to_pylist()

    def stream() -> Iterator[bytes]:
        with _open(tar, "r|", ShardError, "delete it, and the next run downloads it again") as archive:
            wanted = iter(rows)
            row = next(wanted, None)
            for member in archive:
                if row is not None and member.name == row["member"]:
                    file = archive.extractfile(member)
                    yield file.read() if file else b""
                    row = next(wanted, None)
            if row is not None:
                raise ShardError(f"{tar} ends before {row['member']}: delete it, and the next run downloads it again")

    return rows, stream()
