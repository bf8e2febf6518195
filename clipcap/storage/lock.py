"""Of several processes that are about to make the same output, one makes it and the others wait."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from clipcap.storage.commit import explaining
from clipcap.storage.lake import Lake


@contextmanager
def one_at_a_time(lake: Lake, name: str) -> Iterator[None]:
    """Waits until no other process or thread of this machine is in a block of that name, then holds it.

    The lock is the kernel's, so a killed process holds nothing up. Machines that share an object store do not see each
    other's: there the last one wins, as commits are whole.

    Raises:
        StorageError: the lake is on a disk that is full or read-only.
    """
    file = lake.scratch / "locks" / hashlib.sha256(name.encode()).hexdigest()[:32]
    with explaining(file):
        while True:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o666)
            except FileNotFoundError:
                continue  # the collector has just removed the folder
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(file, descriptor):
                break
            os.close(descriptor)  # whoever held it has removed the file: this lock binds nobody
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)


def remove_abandoned(lake: Lake) -> None:
    """Removes the files of locks that killed processes left; one that is held stays, however old."""
    for file in (lake.scratch / "locks").glob("*"):
        try:
            descriptor = os.open(file, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(file, descriptor):
                file.unlink()
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)


def _is_still(file: os.PathLike[str], descriptor: int) -> bool:
    try:
        return os.stat(file).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
