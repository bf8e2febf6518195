"""The one way a file gets its final name: whole, on disk, then renamed.

A kill at any moment leaves either the old file or the new one; what was being written lies in ``.<name>.<random>``
beside it and is never read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipcap.errors import ClipCapError, ShardError, StorageError
from clipcap.storage.lake import Lake
from clipcap.storage.mirror import mirror_of

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_LEFT_WHEN_FULL = 2**16  # bytes; some libraries say only that they wrote less than they were asked to


@contextmanager
def explaining(final: Path) -> Iterator[None]:
    """A disk that is full and a folder that is read-only, told so that a person knows what to do.

    Raises:
        StorageError: instead of what libraries raise then, each its own kind.
    """
    try:
        yield
    except ClipCapError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        where = getattr(error, "filename", None) or final
        if number in _REFUSED:
            raise StorageError(
                f"{where}: {os.strerror(number)}; is the disk mounted read-only, or the folder another user's? "
                "What was finished before stands, and the next run goes on from there"
            ) from error
        if number in _FULL or "No space left" in str(error) or _is_full(final):
            raise StorageError(
                f"{final} cannot be written: the disk is full; free some space or move the lake to a larger disk. "
                "What was finished before stands, and the next run goes on from there"
            ) from error
        raise


def _is_full(path: Path) -> bool:
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(folder).free < _LEFT_WHEN_FULL


def _aside(final: Path) -> Path:
    with explaining(final):
        final.parent.mkdir(parents=True, exist_ok=True)
    return final.parent / f".{final.name}.{secrets.token_hex(4)}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(local_file: Path, final: Path, exclusive: bool = False) -> bool:
    """Gives a finished local file its final name (moves it).

    Args:
        local_file: whole and closed; on the same file system as ``final``, else it is copied there first.
        final: replaced atomically if it exists, unless ``exclusive``.
        exclusive: create only; of two processes exactly one succeeds.

    Returns:
        False where ``exclusive`` and the file was there already (``local_file`` is deleted), else True.

    Raises:
        StorageError: the disk is full or read-only; the old file stands.
    """
    with explaining(final):
        return _commit(local_file, final, exclusive)


def _commit(local_file: Path, final: Path, exclusive: bool) -> bool:
    final.parent.mkdir(parents=True, exist_ok=True)
    if local_file.stat().st_dev != final.parent.stat().st_dev:
        moved = _aside(final)
        shutil.copyfile(local_file, moved)
        local_file.unlink()
        local_file = moved
    _flush(local_file)
    stored = mirror_of(final)
    if stored is not None:
        mirror, name = stored
        if not mirror.put(local_file, name, exclusive):
            local_file.unlink()
            return False
    if exclusive and stored is None:
        try:
            os.link(local_file, final)  # fails where the name exists, unlike a rename
        except FileExistsError:
            return False
        finally:
            local_file.unlink()
    else:
        os.replace(local_file, final)
    _flush(final.parent)
    return True


@contextmanager
def writing(final: Path) -> Iterator[Path]:
    """Yields a path to write to; commits it when the block ends, deletes it when the block raises."""
    aside = _aside(final)
    try:
        with explaining(final):
            yield aside
            commit(aside, final)
    finally:
        aside.unlink(missing_ok=True)


def commit_bytes(data: bytes, final: Path, exclusive: bool = False) -> bool:
    """Writes and commits small contents; see :func:`commit`."""
    aside = _aside(final)
    try:
        with explaining(final):
            aside.write_bytes(data)
            return commit(aside, final, exclusive)
    finally:
        aside.unlink(missing_ok=True)


def commit_table(table: pa.Table, final: Path, **options: object) -> None:
    """Writes a Parquet file, reopens it to see that all rows are there, and commits it.

    Raises:
        ShardError: the written file does not hold the table's rows.
    """
    with writing(final) as aside:
        pq.write_table(table, aside, **options)
        rows = pq.read_metadata(aside).num_rows
        if rows != table.num_rows:
            raise ShardError(f"{final}: wrote {table.num_rows} rows and read back {rows}; is the disk full?")


@contextmanager
def writing_folder(final: Path) -> Iterator[Path]:
    """Yields a folder to fill; gives it its final name when the block ends. An older one is replaced."""
    aside = _aside(final)
    try:
        with explaining(final):
            aside.mkdir()
            yield aside
            for file in aside.rglob("*"):
                if file.is_file():
                    _flush(file)
            if final.exists():
                old = _aside(final)
                os.rename(final, old)
                os.rename(aside, final)
                shutil.rmtree(old)
            else:
                os.rename(aside, final)
            _flush(final.parent)
            if stored := mirror_of(final):
                stored[0].put_folder(final, stored[1])
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def scratch_folder(lake: Lake, label: str) -> Iterator[Path]:
    """A private folder for unfinished work, removed afterwards."""
    folder = lake.scratch / f"{label}-{secrets.token_hex(4)}"
    try:
        with explaining(folder):
            folder.mkdir(parents=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
