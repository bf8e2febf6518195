"""img2dataset with the guard as its only way out.

Each URL is handed over as ``guard:<url>``, which urllib knows no way to open; the one handler for it stands below. The
downloader that img2dataset sends to its processes (of this machine, of Ray or of Spark) is of our class, so a process
cannot take it without importing this module, and it installs the handler before it fetches. Where all that should fail,
rows fail: nothing is fetched past the guard.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

from img2dataset.downloader import Downloader

from clipcap.dataset.guard.fetch import Guard
from clipcap.dataset.guard.policy import Policy

SCHEME = "guard"


class GuardedDownloader(Downloader):  # type: ignore[misc]
    """img2dataset's own, with the policy along."""

    policy = ""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.policy = type(self).policy  # of the instance, so that it is pickled with it

    def download_shard(self, row: Any) -> Any:
        install(Guard(Policy.loads(self.policy)))
        return super().download_shard(row)


class _Handler(urllib.request.BaseHandler):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def guard_open(self, request: urllib.request.Request) -> _Body:
        answer = self._guard.fetch(request.full_url.removeprefix(f"{SCHEME}:"))
        return _Body(answer.data)


class _Body(io.BytesIO):
    headers = Message()  # what they say was obeyed already


def install(guard: Guard) -> None:
    """Makes the guard the only thing that ``urllib.request.urlopen`` of this process can use."""
    opener = urllib.request.OpenerDirector()
    opener.add_handler(_Handler(guard))
    opener.add_handler(urllib.request.UnknownHandler())
    urllib.request.install_opener(opener)


def main() -> None:
    """``--policy FILE`` is ours; everything else is img2dataset's."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--policy", type=Path, required=True)
    ours, theirs = parser.parse_known_args()
    GuardedDownloader.policy = ours.policy.read_text(encoding="utf-8")
    module = importlib.import_module("img2dataset.main")
    if not isinstance(getattr(module, "Downloader", None), type):
        raise SystemExit("this version of img2dataset has no Downloader that the guard could stand in front of")
    module.Downloader = GuardedDownloader  # type: ignore[attr-defined]
    sys.argv = ["img2dataset", *theirs]
    importlib.import_module("img2dataset").main()
