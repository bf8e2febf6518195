"""Reading somebody else's tar as a stream: nothing is unpacked, and nothing that it claims is believed.

Python's tarfile takes a header that is damaged behind the first member for the archive's end, reads extended headers of
any length into memory, and skips a member by its claimed size even behind the file's end. All three are errors here.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, Literal

import fsspec

from clipcap.redaction import redact_text

DAMAGED = (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)
"""What reading a damaged or hostile archive raises."""
_LARGEST_HEADER = 1 << 20  # bytes of an extended header: long names, PAX records
_BLOCK = 1 << 16
_EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
)  # fmt: skip


class _Member(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Member:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the zeros that end every archive
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error}, so it is cut or damaged") from None

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:  # the hook that tarfile offers to subclasses
        if self.type in _EXTENDED and self.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"an extended header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


class _Forward:
    """tarfile's stream, whose own ``seek`` goes on behind the end for as long as a member's claimed size."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.read, self.tell, self.close = stream.read, stream.tell, stream.close

    def seek(self, position: int) -> int:
        left = position - self.tell()
        if left < 0:
            raise tarfile.StreamError("a stream is read forward only")
        while left:
            got = len(self.read(min(left, _BLOCK)))
            if not got:
                raise tarfile.ReadError("unexpected end of data")
            left -= got
        return position


@contextmanager
def open_archive(url: str, mode: Literal["r|*", "r:*"] = "r|*") -> Iterator[tarfile.TarFile]:
    """A tar, plain or compressed, to be read once from front to end; "r:*" leaps over what nobody asks for.

    Raises:
        One of :data:`DAMAGED`: it is no tar, or damaged.
    """
    with (
        fsspec.open(url, "rb") as stream,
        tarfile.open(fileobj=stream, mode=mode, tarinfo=_Member, errors="surrogateescape") as archive,
    ):
        if mode == "r|*":
            archive.fileobj = _Forward(archive.fileobj)  # type: ignore[assignment]
        yield archive


def words_of(error: Exception) -> str:
    """The first line of a message, in characters that can be shown, without what lets one into a remote tar."""
    line = redact_text((str(error).splitlines() or [""])[0]) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in line)


def why_unusable(member: tarfile.TarInfo, max_bytes: int) -> str:
    """ "" for a plain file that stays where it is and is not too large, else a reason for a person."""
    name = member.name
    if name.startswith("/") or ".." in PurePosixPath(name.replace("\\", "/")).parts or "\0" in name:
        return "its name in the tar leaves the folder"
    if not member.isfile():
        return "it is a link or a device, not a file"
    if member.issparse():
        return "it is a sparse file, whose size is only claimed"
    if member.size > max_bytes:
        return f"{member.size:,} bytes, above the maximum of {max_bytes:,}"
    return ""
