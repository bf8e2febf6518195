"""Every path of the lake. Nothing else in the project joins one."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from clipcap.errors import ConfigError
from clipcap.redaction import without_userinfo
from clipcap.storage.mirror import get_mirror

_PASSWORD = re.compile(r"[^:]+://[^/?#]*:[^/?#]*@")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_@=+-]{0,120}")


def new_run_id() -> str:
    """A run's name: when it started (UTC) and six random hex digits; sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def resolve_data_dir(flag: str | None = None, config: str = "") -> Path | str:
    """The lake's root, a folder or a URL: flag before config before CLIPCAP_DATA_DIR before ./data.

    Raises:
        ConfigError: no folder can have that name, or the URL holds a password.
    """
    asked = flag or config or os.environ.get("CLIPCAP_DATA_DIR") or "data"
    asked = asked.removeprefix("file://")
    if "\0" in asked:
        raise ConfigError(f"data_dir: no path holds the character NUL (got {asked!r})")
    if "://" in asked and _PASSWORD.match(asked):
        raise ConfigError(
            f"data_dir: {without_userinfo(asked)} holds a password, which would be written wherever the lake is named; "
            "give it as the store's own variables or profile do (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE)"
        )
    if "://" in asked:
        return asked
    root = Path(asked).expanduser().resolve()
    if in_the_way := next((part for part in (root, *root.parents) if part.is_file()), None):
        raise ConfigError(f"data_dir: {in_the_way} is a file, and a lake is a folder: name another with --data-dir")
    return root


def _part(name: str) -> str:
    """One path part made from an identifier; refuses what could leave its folder.

    Raises:
        ConfigError: the identifier is empty or has a slash, a dot or anything else unexpected.
    """
    if not _ID.fullmatch(name):
        raise ConfigError(f"{name!r} is not an identifier: use letters, digits, '-', '_' and '@' only")
    return name


class Lake:
    """Names the files below one root, a folder or any fsspec URL. Methods return local paths and create nothing.

    Of a lake on an object store the paths are those of its mirror (:mod:`clipcap.storage.mirror`); what is read from
    one goes through :meth:`absolute`, :meth:`absolute_all` or :meth:`at_hand`, which fetch it.
    """

    def __init__(self, root: Path | str) -> None:
        self.address = str(root)
        """As it was given: what a person reads, and what other processes open the lake by."""
        self.mirror = get_mirror(self.address) if "://" in self.address else None
        self.root = self.mirror.folder if self.mirror else Path(root)

    def relative(self, path: Path) -> str:
        """``path`` as it stands in manifests and SQL: relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def absolute(self, relative: str) -> Path:
        """A stored file, to be read."""
        return self.mirror.fetch(relative) if self.mirror else self.root / relative

    def absolute_all(self, relatives: Iterable[str]) -> list[Path]:
        """Stored files, to be read: from a store they come side by side."""
        return self.mirror.fetch_all(relatives) if self.mirror else [self.root / name for name in relatives]

    def at_hand(self, path: Path) -> Path:
        """The same path, what lies there (a file, or all of a folder) fetched."""
        if self.mirror:
            self.mirror.fetch_folder(self.relative(path))
        return path

    def size_of(self, relative: str) -> int | None:
        """Bytes of a stored file; None where there is none."""
        if self.mirror:
            return self.mirror.size_of(relative)
        try:
            return (self.root / relative).stat().st_size
        except OSError:
            return None

    def exists(self, path: Path) -> bool:
        return self.mirror.has(self.relative(path)) if self.mirror else path.exists()

    def read_bytes(self, path: Path) -> bytes:
        """Small contents that change, as they are now.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self.mirror.read(self.relative(path)) if self.mirror else path.read_bytes()

    def files_in(self, folder: Path, extension: str) -> list[Path]:
        """Files of that extension in a folder, by name, to be read."""
        if not self.mirror:
            return sorted(folder.glob(f"*{extension}"))
        return sorted(f for f in self.mirror.fetch_folder(self.relative(folder)) if f.suffix == extension)

    def stored(self) -> dict[str, tuple[int, datetime | None]]:
        """Every file, by its path below the root: bytes, and when it last changed (None where a store does not say).

        What has its name only on this machine is left out: unfinished work, Prefect's results.
        """
        if self.mirror:
            return self.mirror.stored()
        found: dict[str, tuple[int, datetime | None]] = {}
        for folder, below, names in os.walk(self.root):
            below[:] = [name for name in below if not name.startswith(".")]
            for path in (Path(folder) / name for name in names if not name.startswith(".")):
                try:
                    stat = path.stat()
                except OSError:
                    continue
                found[self.relative(path)] = (stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))
        return found

    def delete_all(self, paths: Iterable[Path]) -> None:
        if self.mirror:
            self.mirror.delete_all(map(self.relative, paths))
        else:
            for path in paths:
                path.unlink(missing_ok=True)

    def urls(self, batch_id: str) -> Path:
        return self.root / "batches" / _part(batch_id) / "urls.parquet"

    def shard(self, batch_id: str, shard_id: str, extension: str) -> Path:
        """``extension`` is "tar" (the images) or "parquet" (a row for each)."""
        return self.root / "batches" / _part(batch_id) / "shards" / f"{_part(shard_id)}.{extension}"

    def ledger(self, stage: str, batch_id: str, shard_id: str, variant: str = "") -> Path:
        """``variant`` (an encoder's or a model's id) keeps apart what a stage did to one shard in different ways."""
        name = f"{_part(shard_id)}_{_part(variant)}" if variant else _part(shard_id)
        return self.root / "ledger" / _part(stage) / _part(batch_id) / f"{name}.parquet"

    def embeddings(self, encoder_id: str, batch_id: str, shard_id: str) -> Path:
        """``encoder_id`` is "<encoder>@<hash12>"."""
        return self.root / "embeddings" / _part(encoder_id) / _part(batch_id) / f"{_part(shard_id)}.parquet"

    def text_embeddings(self, encoder_id: str, batch_id: str, shard_id: str) -> Path:
        return self.root / "text_embeddings" / _part(encoder_id) / _part(batch_id) / f"{_part(shard_id)}.parquet"

    def duplicates(self, encoder_id: str, batch_id: str) -> Path:
        return self.root / "duplicates" / _part(encoder_id) / f"{_part(batch_id)}.parquet"

    def model(self, model_id: str) -> Path:
        return self.root / "models" / _part(model_id)

    def captions(self, model_id: str, run_id: str, shard_id: str) -> Path:
        return self.root / "captions" / _part(model_id) / _part(run_id) / f"{_part(shard_id)}.parquet"

    def metrics(self, model_id: str, run_id: str, table: str) -> Path:
        """``table`` is "corpus" or "per_image"."""
        return self.root / "metrics" / _part(model_id) / _part(run_id) / f"{_part(table)}.parquet"

    def evaluation_set(self, name: str) -> Path:
        return self.root / "evaluation_sets" / f"{_part(name)}.parquet"

    def report(self, run_id: str) -> Path:
        return self.root / "reports" / _part(run_id) / "index.html"

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    def manifest(self, generation: int) -> Path:
        return self.manifests / f"{generation}.json"

    @property
    def current(self) -> Path:
        return self.root / "CURRENT"

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.duckdb"

    @property
    def prefect_results(self) -> Path:
        return self.root / ".prefect"

    @property
    def scratch(self) -> Path:
        """Unfinished work, on the same disk as the lake so that a rename is atomic; safe to delete between runs."""
        return self.root / ".scratch"
