"""From an address in a page to the picture's bytes: files below the site's folder, data URIs, URLs only when asked."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from clipcap.captioning import fetch

MAX_BYTES = 64 * 2**20


def read_image(address: str, page: Path, site: Path, site_url: str = "", fetches: bool = False) -> tuple[str, bytes]:
    """The picture that an address in ``page`` means.

    Args:
        address: as in the page, with its base.
        page: the file, below ``site``.
        site: the folder that "/" means.
        site_url: addresses that begin with it are of this site too.
        fetches: ask the network for those of others.

    Returns:
        what the picture is called in tables (a path below ``site``, a URL, "data:"), and its bytes.

    Raises:
        OSError: with a reason for a person.
    """
    if address.startswith("data:"):
        return "data:", _data(address)
    root = site.resolve()
    if site_url and address.startswith(site_url):
        address = "/" + address[len(site_url) :].lstrip("/")
    if address.startswith("//"):
        address = f"https:{address}"
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise OSError(f"not an address ({error})") from None
    if parts.scheme in ("http", "https"):
        if not fetches:
            raise OSError("lies on another site; --fetch asks for it")
        return address, fetch(address, is_typed=False)
    if parts.scheme:
        raise OSError(f"addresses with {parts.scheme}: are not read")
    path = unquote_to_bytes(parts.path).decode("utf-8", "surrogateescape")
    if "\0" in path:
        raise OSError("not a path")
    file = (root / path.lstrip("/") if path.startswith("/") else page.parent / path).resolve()
    if not file.is_relative_to(root):
        raise OSError("lies outside the site's folder")
    if not file.is_file():
        raise OSError("there is no such file")
    if file.stat().st_size > MAX_BYTES:
        raise OSError(f"more than {MAX_BYTES:,} bytes")
    return file.relative_to(root).as_posix(), file.read_bytes()


def _data(address: str) -> bytes:
    head, _, body = address[5:].partition(",")
    data = unquote_to_bytes(body)
    if not head.rstrip().endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=False)
    except binascii.Error as error:
        raise OSError(f"a damaged data URI ({error})") from None
