"""A lake on an object store: a folder of this machine in which every path of the lake stands as it would locally.

What is written is put to the store under its final name, whole, before it gets that name here. What is read is
fetched once, and again when the store has another version of it. The store decides what exists; the folder may be
deleted whenever nothing runs.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import posixpath
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipcap.errors import ConfigError, DataError, TransientError

_AT_ONCE = 16  # requests at the same time
_LISTED_FROM = 64  # so many files and more are looked up in one listing, not one by one
_IN_PARTS = 2**24  # s3fs fetches large objects in parts, which may be of two versions
_mirrors: dict[str, Mirror] = {}
_lock = threading.Lock()


def get_mirror(url: str) -> Mirror:
    """The mirror of a lake's URL; one in a process."""
    url = url.rstrip("/")
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

        self.url = url
        try:
            self.store, self.base = url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            extra = " (pip install 'clipcap-pipeline[s3]')" if url.startswith("s3") else ""
            raise ConfigError(f"the lake {self.url} cannot be reached: {error}{extra}") from None
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = cache_folder() / "lakes" / name
        self._sizes: dict[str, int] | None = None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Size in bytes of each object below a prefix, by name; asked anew."""
        return {name: int(info["size"]) for name, info in self._find(prefix).items()}

    def stored(self) -> dict[str, tuple[int, datetime | None]]:
        """Bytes and time of the last change of every object, by name; asked anew."""
        return {name: (int(info["size"]), _changed(info)) for name, info in self._find("").items()}

    def refresh(self) -> None:
        """Forgets the sizes: the next look lists the lake again."""
        self._sizes = None

    def size_of(self, relative: str) -> int | None:
        """From one listing of the whole lake, made when it is first needed; None where there is no such object."""
        sizes = self._sizes
        if sizes is None:
            sizes = self._sizes = self.sizes()
        return sizes.get(relative)

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

    def delete_all(self, relatives: Iterable[str]) -> None:
        def delete(relative: str) -> None:
            with suppress(FileNotFoundError), self._asking(relative):
                self.store.rm_file(self._name(relative))
            (self.folder / relative).unlink(missing_ok=True)

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(delete, relatives))

    def fetch(self, relative: str) -> Path:
        """The local copy of an object, fetched unless it is here already in the store's version of it."""
        return self._fetch(relative, self._info(relative))

    def fetch_all(self, relatives: Iterable[str]) -> list[Path]:
        """The same of many, side by side; the store is asked for many versions in one listing."""
        wanted = list(relatives)
        ask: Callable[[str], dict[str, Any] | None] = self._info
        if len(wanted) >= _LISTED_FROM:
            ask = self._find(posixpath.commonpath(wanted)).get
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(lambda relative: self._fetch(relative, ask(relative)), wanted))

    def fetch_folder(self, relative: str) -> list[Path]:
        """The same of all that lies below a name, or of the object of that name."""
        found = self._find(relative)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(self._fetch, found, found.values()))

    def put(self, local: Path, relative: str, exclusive: bool = False) -> bool:
        """Gives a whole local file its name in the store, as one PUT (large ones come in parts and appear at the end).

        Args:
            exclusive: create only (S3: a conditional PUT); False where the name was there already.

        Raises:
            DataError: there is no such bucket, or the store cannot be written to.
        """
        try:
            if exclusive:
                if not self._create(relative, local.read_bytes()):
                    return False
            else:
                # Azure's put_file refuses an existing name unless it is told so.
                options = {"overwrite": True} if _takes(self.store.put_file, "overwrite") else {}
                with self._asking(relative):
                    self.store.put_file(str(local), self._name(relative), **options)
        except FileNotFoundError as error:
            raise DataError(f"{self.url}/{relative} cannot be written ({error}); does the bucket exist?") from None
        stat = local.stat()
        if (sizes := self._sizes) is not None:
            sizes[relative] = stat.st_size
        info = self._info(relative)
        if info and info["size"] == stat.st_size:  # another size: someone else has put the name meanwhile
            self._mark(relative, info, stat)
        return True

    def put_folder(self, local: Path, relative: str) -> None:
        """Puts every file, config.json last: a folder without it is not yet a model; then deletes what was more."""
        before = self.sizes(relative)
        files = {f"{relative}/{f.relative_to(local).as_posix()}": f for f in local.rglob("*") if f.is_file()}
        for name in sorted(files, key=lambda name: (files[name].name == "config.json", name)):
            self.put(files[name], name)
        self.delete_all(before.keys() - files.keys())

    def _create(self, relative: str, data: bytes) -> bool:
        name = self._name(relative)
        with self._asking(relative):
            if not _takes(self.store.pipe_file, "mode"):  # the best there is: no store of ours is like that
                if self.store.exists(name):
                    return False
                self.store.pipe_file(name, data)
                return True
            try:
                self.store.pipe_file(name, data, mode="create")
            except OSError as error:
                told = f"{error!r} {error.__cause__!r}"
                if not any(sign in told for sign in ("FileExists", "PreconditionFailed", "ConditionalRequestConflict")):
                    raise
                # The client repeats a request whose answer was lost: then what is there is ours.
                with suppress(FileNotFoundError):
                    return bool(self.store.cat_file(name) == data)
                return False  # two conditional PUTs at once, and none of them made it
        return True

    def _name(self, relative: str) -> str:
        return f"{self.base.rstrip('/')}/{relative}"

    def _find(self, prefix: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        with suppress(FileNotFoundError), self._asking(prefix):
            found = self.store.find(self._name(prefix).rstrip("/"), detail=True)
        start = len(self._name(""))
        return {name[start:]: info for name, info in found.items() if info.get("type") == "file"}

    def _info(self, relative: str) -> dict[str, Any] | None:
        try:
            with self._asking(relative):
                info: dict[str, Any] = self.store.info(self._name(relative))
        except FileNotFoundError:
            return None
        return info

    def _fetch(self, relative: str, info: dict[str, Any] | None) -> Path:
        """``info`` is what the store says of the object; where it has none, there is none here either."""
        local = self.folder / relative
        if info is not None and self._is_fresh(local, relative, info):
            return local
        aside = local.parent / f".{local.name}.{secrets.token_hex(4)}"
        try:
            for _ in range(3):
                if info is None:
                    break
                local.parent.mkdir(parents=True, exist_ok=True)
                with self._asking(relative):
                    self.store.get_file(self._name(relative), str(aside))
                before, size = info, aside.stat().st_size
                if size != before["size"] or size > _IN_PARTS:  # was it replaced meanwhile?
                    info = self._info(relative)
                if info is not None and size == info["size"] and _version(info) == _version(before):
                    self._mark(relative, info, aside.stat())
                    os.replace(aside, local)
                    return local
            else:
                raise TransientError(f"{self.url}/{relative} changes while it is read; trying again may help")
        except FileNotFoundError:
            pass  # deleted since it was asked for
        finally:
            aside.unlink(missing_ok=True)
        local.unlink(missing_ok=True)  # opening it says so
        return local

    def _is_fresh(self, local: Path, relative: str, info: dict[str, Any]) -> bool:
        try:
            return (self.folder / ".versions" / relative).read_text() == _version_here(info, local.stat())
        except OSError:
            return False

    def _mark(self, relative: str, info: dict[str, Any], stat: os.stat_result) -> None:
        """Notes of which version a local file is before it gets its name; a rename keeps what ``stat`` tells of it."""
        file = self.folder / ".versions" / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.parent / f".{file.name}.{secrets.token_hex(4)}"
        aside.write_text(_version_here(info, stat))
        os.replace(aside, file)

    @contextmanager
    def _asking(self, relative: str) -> Iterator[None]:
        where = f"{self.url}/{relative}"
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except NotImplementedError:
            raise DataError(f"{where}: this kind of store is read-only to fsspec; a lake must be written to") from None
        except Exception as error:  # each store's client raises its own kinds for what may heal by itself
            problem = f"{type(error).__name__}: {error}"
            if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
                raise DataError(f"{where}: the store refuses ({problem}); check the credentials and rights") from None
            raise TransientError(f"{where}: the store failed ({problem}); trying again may help") from error


def _changed(info: dict[str, Any]) -> datetime | None:
    """When an object last changed; each store has its own word for it."""
    for mark in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = info.get(mark)
        if isinstance(value, str):
            with suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None


def _version(info: dict[str, Any]) -> str:
    """What changes with an object's contents."""
    marks = (info.get(name) for name in ("ETag", "etag", "md5Hash", "generation", "mtime", "created", "size"))
    return "|".join(str(mark) for mark in marks if mark is not None)


def _version_here(info: dict[str, Any], stat: os.stat_result) -> str:
    """A version and the local file that holds it: whatever else has that name is no copy of it."""
    return f"{_version(info)}\n{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"


def _takes(function: Callable[..., Any], option: str) -> bool:
    return option in inspect.signature(function).parameters
