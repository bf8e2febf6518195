"""A lake on an object store: a folder of this machine in which every path of the lake stands as it would locally.

What is written is put to the store under its final name, whole, before it gets that name here. What is read is
fetched once. The store decides what exists; the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipcap.errors import ConfigError, DataError, TransientError

_AT_ONCE = 16  # files fetched at the same time
_mirrors: dict[str, Mirror] = {}
_lock = threading.Lock()


def get_mirror(url: str) -> Mirror:
    """The mirror of a lake's URL; one in a process."""
    with _lock:
        if url not in _mirrors:
            _mirrors[url] = Mirror(url)
        return _mirrors[url]


def mirror_of(path: Path) -> tuple[Mirror, str] | None:
    """The mirror that a path belongs to and its name there; None for local lakes and for what stays on this machine."""
    for mirror in list(_mirrors.values()):
        if path.is_relative_to(mirror.folder):
            relative = path.relative_to(mirror.folder).as_posix()
            # .scratch, .prefect, what is written aside; the catalog goes to the store when it is published
            stays = relative == "catalog.duckdb" or any(part.startswith(".") for part in relative.split("/"))
            return None if stays else (mirror, relative)
    return None


def cache_folder() -> Path:
    """Where mirrors are: ``CLIPCAP_CACHE_DIR``, else the user's cache folder."""
    base = os.environ.get("CLIPCAP_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "clipcap"
    return Path(base).expanduser().absolute()


class Mirror:
    """One lake's store and its folder here.

    Args:
        url: any fsspec URL of a folder, "s3://bucket/lake". Keys and endpoints are fsspec's and the store's own affair.

    Raises:
        ConfigError: no package for this kind of URL is installed.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        try:
            self.store, self.base = url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            extra = " (pip install 'clipcap-pipeline[s3]')" if url.startswith("s3") else ""
            raise ConfigError(f"the lake {self.url} cannot be reached: {error}{extra}") from None
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = cache_folder() / "lakes" / name
        self._sizes: dict[str, int] | None = None
        self._versions: dict[str, str] = {}

    def list(self, prefix: str = "") -> dict[str, int]:
        """Size in bytes of each object below a prefix, by name; asked anew."""
        with self._asking(prefix):
            found = self.store.find(f"{self.base}/{prefix}".rstrip("/"), detail=True)
        start = len(self.base.rstrip("/")) + 1
        objects = {name[start:]: info for name, info in found.items() if info.get("type") == "file"}
        self._versions.update({name: _version(info) for name, info in objects.items()})
        return {name: int(info["size"]) for name, info in objects.items()}

    def refresh(self) -> None:
        """Forgets what is known of the store."""
        self._sizes = None
        self._versions.clear()

    def size_of(self, relative: str) -> int | None:
        """From one listing of the whole lake, made when it is first needed; None where there is no such object."""
        if self._sizes is None:
            self._sizes = self.list()
        return self._sizes.get(relative)

    def read(self, relative: str) -> bytes:
        """Small contents as they are now.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with self._asking(relative):
            data: bytes = self.store.cat_file(self._name(relative))
        return data

    def has(self, relative: str) -> bool:
        with self._asking(relative):
            return bool(self.store.exists(self._name(relative)))

    def delete(self, relative: str) -> None:
        with self._asking(relative):
            if self.store.exists(self._name(relative)):
                self.store.rm_file(self._name(relative))
        (self.folder / relative).unlink(missing_ok=True)

    def fetch(self, relative: str) -> Path:
        """The local copy of an object, fetched unless it is here already in the store's version of it."""
        local = self.folder / relative
        version = self._versions.get(relative)  # known since the last listing
        if version is None:
            version = self._ask_version(relative)
        if version is None or (local.is_file() and self._read_version(relative) == version):
            return local  # where the store has none, opening it says so
        local.parent.mkdir(parents=True, exist_ok=True)
        aside = local.parent / f".{local.name}.{secrets.token_hex(4)}"
        try:
            with self._asking(relative):
                self.store.get_file(self._name(relative), str(aside))
            os.replace(aside, local)
        finally:
            aside.unlink(missing_ok=True)
        self._write_version(relative, version)
        return local

    def fetch_all(self, relatives: Iterable[str]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(self.fetch, relatives))

    def put(self, local: Path, relative: str, exclusive: bool = False) -> bool:
        """Gives a whole local file its name in the store, as one PUT.

        Args:
            exclusive: create only (S3: a conditional PUT); False where the name was there already.
        """
        with self._asking(relative):
            try:
                if exclusive:
                    self.store.pipe_file(self._name(relative), local.read_bytes(), mode="create")
                else:
                    self.store.put_file(str(local), self._name(relative))
            except OSError as error:
                if exclusive and (isinstance(error, FileExistsError) or "PreconditionFailed" in repr(error)):
                    return False
                raise
        if self._sizes is not None:
            self._sizes[relative] = local.stat().st_size
        self._write_version(relative, self._ask_version(relative) or "")
        return True

    def _name(self, relative: str) -> str:
        return f"{self.base.rstrip('/')}/{relative}"

    def _ask_version(self, relative: str) -> str | None:
        try:
            with self._asking(relative):
                version = _version(self.store.info(self._name(relative)))
        except FileNotFoundError:
            return None
        self._versions[relative] = version
        return version

    def _read_version(self, relative: str) -> str:
        try:
            return (self.folder / ".versions" / relative).read_text()
        except OSError:
            return ""

    def _write_version(self, relative: str, version: str) -> None:
        file = self.folder / ".versions" / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.parent / f".{file.name}.{secrets.token_hex(4)}"
        aside.write_text(version)
        os.replace(aside, file)

    @contextmanager
    def _asking(self, relative: str) -> Iterator[None]:
        where = f"{self.url}/{relative}"
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except PermissionError as error:
            raise DataError(f"{where}: the store refuses ({error}); check the credentials and their rights") from None
        except Exception as error:  # each store's client raises its own kinds for what may heal by itself
            problem = f"{type(error).__name__}: {error}"
            raise TransientError(f"{where}: the store failed ({problem}); trying again may help") from error


def _version(info: dict[str, Any]) -> str:
    """What changes with an object's contents."""
    marks = (info.get(name) for name in ("ETag", "etag", "md5Hash", "generation", "mtime", "created", "size"))
    return "|".join(str(mark) for mark in marks if mark is not None)
