"""A watched folder: what is dropped there is taken when it is whole, exactly once, and never deleted.

    inbox/holiday.csv                           dropped
    inbox/landed/<when>-holiday/holiday.csv     taken; its rows name this place from now on
    inbox/landed/<when>-holiday/batch.json      what became of it: written last
    inbox/refused/<when>-odd/odd.csv            nothing of it can be used
    inbox/refused/<when>-odd/reason.txt         why

It is taken by one rename, before it is read, because the rows of a folder of images name files by their place. A kill
after the rename leaves a folder without ``batch.json``, which the next look finds; landing the same rows again is the
same batch.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipcap.errors import SourceError
from clipcap.storage.commit import commit_bytes

_UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", ".swp", "~")
"""How programs name what they are still writing."""
_OURS = ("landed", "refused")


@dataclass(frozen=True)
class Dropped:
    """One file or folder of an inbox."""

    path: Path
    waits_for: str = ""
    """Why it is not taken yet; empty when it is whole."""
    is_taken: bool = False
    """Whether it lies below landed/ already, taken by a run that died before it was done."""

    @property
    def dataset(self) -> str:
        """Names its batch: "Holiday 2026.csv.gz" is "holiday-2026"."""
        stem = self.path.name.partition(".")[0].lower()
        return re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:40] or "inbox"


def look(inbox: Path, settle_s: float) -> list[Dropped]:
    """What is there, by name; what an earlier run took and did not finish comes first.

    Args:
        settle_s: seconds since the last change of any file or folder in it, after which it is whole.

    Raises:
        SourceError: there is no such folder.
    """
    if not inbox.is_dir():
        raise SourceError(f"inbox.folder: there is no folder {inbox}; make it, or leave inbox.folder empty")
    found = []
    for folder in sorted((inbox / "landed").glob("[!.]*/")):
        inside = [path for path in sorted(folder.iterdir()) if path.name != "batch.json"]
        if inside and not (folder / "batch.json").exists():
            found.append(Dropped(inside[0], is_taken=True))
    for path in sorted(inbox.iterdir()):
        if path.name not in _OURS and not path.name.startswith("."):
            found.append(Dropped(path, _reason_to_wait(path, settle_s)))
    return found


def take(dropped: Dropped) -> Dropped:
    """Moves it to where its rows will name it; what was taken before stays."""
    if dropped.is_taken:
        return dropped
    return Dropped(_move(dropped, "landed"), is_taken=True)


def finish(taken: Dropped, facts: dict[str, Any]) -> None:
    """Notes what became of it: it is not looked at again."""
    commit_bytes(json.dumps(facts, indent=1, default=str).encode(), taken.path.parent / "batch.json")


def refuse(taken: Dropped, reason: str) -> Path:
    """Puts it aside with the reason beside it; whoever mends it drops it again."""
    inbox = taken.path.parents[2]
    target = inbox / "refused" / taken.path.parent.name
    target.parent.mkdir(exist_ok=True)
    os.rename(taken.path.parent, target)
    commit_bytes(f"{reason}\n".encode(), target / "reason.txt")
    return target


def _reason_to_wait(path: Path, settle_s: float) -> str:
    everything = [path, *path.rglob("*")] if path.is_dir() else [path]
    for file in everything:
        if file.name.endswith(_UNFINISHED):
            return f"{file.name} is still being written, by its name"
    try:
        # The time of the last change of any kind: copying programs set back the time of modification, never this.
        changed = max(max(file.lstat().st_ctime, file.lstat().st_mtime) for file in everything)
    except FileNotFoundError:
        return "it changes at this moment"
    quiet_s = time.time() - changed
    return "" if quiet_s >= settle_s else f"changed {max(quiet_s, 0):.0f} s ago; it is whole after {settle_s:g} s"


def _move(dropped: Dropped, to: str) -> Path:
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}-{dropped.dataset}"
    target = dropped.path.parent / to / name
    target.mkdir(parents=True)
    os.rename(dropped.path, target / dropped.path.name)
    return target / dropped.path.name
