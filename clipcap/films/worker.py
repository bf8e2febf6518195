"""The process that decodes a film: FFmpeg reads somebody else's bytes here, and nowhere else.

It gets one file, open, and no name: no playlist or reference in it leads to another file or to the network. The kinds
of container are listed, since some (HLS, concat, images by pattern) are programs that say what else to open. Memory is
limited. It speaks JSON, one object in a line, and leaves pictures as JPEG files in a folder that it is given.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from clipcap.embedding.decode_worker import limit_memory
from clipcap.films.shots import GRID
from clipcap.images import open_image

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,flv,asf,nut"
KINDS = "MP4, MOV, MKV, WebM, AVI, MPEG, TS, Ogg, FLV or WMV"
MAX_FRAMES = 2_000_000
"""Some 22 hours of 25 frames in a second."""
MAX_PIXELS = 2**26
LONGEST_EDGE = 1024
"""Pixels of a stored frame: more than any encoder looks at."""
_WIDTH, _HEIGHT = 128, 72  # what every frame is judged by
_NEAR_S = 3.0  # a frame this far ahead is reached by decoding, one farther by a jump to the key frame before it
_EXACT_S = 0.0006  # times are written in milliseconds
_SAID_EVERY = 100  # frames
_HEAD = 2**20  # bytes, in which an image says its kind


def main() -> None:
    """Commands: ``scan FILE OUT.npz`` and ``grab FILE FOLDER TIMES.json``."""
    limit_memory()
    command, file, *rest = sys.argv[1:]
    with Path(file).open("rb") as stream:
        try:
            if command == "scan":
                _say(done=scan(stream, Path(rest[0])))
            else:
                _say(done=grab(stream, Path(rest[0]), json.loads(Path(rest[1]).read_text())))
        except _Unusable as error:
            _say(problem=str(error))
        except Exception as error:  # of any kind: the bytes are somebody else's
            _say(problem=f"it cannot be read ({_words(error)})")


class _Unusable(Exception):
    """A film, readable or not, of which nothing can be shown."""


def scan(stream: Any, out: Path) -> dict[str, Any]:
    """Looks at every frame once and writes the arrays of :class:`clipcap.films.shots.Signal`."""
    rows: list[tuple[float, float, float, float, float]] = []
    small: list[np.ndarray] = []
    before, shrink = None, VideoReformatter()  # one for all: each sets up tables of its own
    with _open(stream) as container:
        expected_s = _duration(container)
        reader = _Frames(container)
        end_s = 0.0
        for time_s, frame in reader:
            if rows and time_s <= rows[-1][0]:
                continue  # a clock that goes back
            if len(rows) == MAX_FRAMES:
                raise _Unusable(f"it has more than {MAX_FRAMES:,} frames; cut it into films of a few hours")
            pixels = shrink.reformat(frame, _WIDTH, _HEIGHT, "rgb24", interpolation="FAST_BILINEAR").to_ndarray()
            grey = pixels.mean(axis=2, dtype=np.float32)
            now = pixels.astype(np.int16)
            change = 0.0 if before is None else float(np.abs(now - before).mean())
            edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
            rows.append((time_s, change, float(grey.mean()), float(grey.std()), float(edges.var())))
            rows_of, columns_of = _HEIGHT // GRID[0], _WIDTH // GRID[1]
            small.append(grey.reshape(GRID[0], rows_of, GRID[1], columns_of).mean((1, 3)).astype(np.uint8))
            before = now
            end_s = time_s + _length(frame)
            if len(rows) % _SAID_EVERY == 0:
                _say(seconds=time_s, of=expected_s)
    if not rows:
        raise _Unusable(f"no frame of it can be decoded{reader.why}")
    with out.open("wb") as file:
        np.savez(file, facts=np.array(rows), small=np.stack(small), end_s=end_s)
    is_short = expected_s - end_s > max(1.0, 0.02 * expected_s)
    shortfall = f"it ends at {end_s:.1f} s of {expected_s:.1f} s" if is_short else ""
    return {"frames": len(rows), "end_s": end_s, "shortfall": shortfall or reader.why.removeprefix(": ")}


def grab(stream: Any, folder: Path, times: list[float]) -> dict[str, Any]:
    """Writes the frames at ``times`` (ascending seconds) as ``<number>.jpg``; says which are not there."""
    missing: list[int] = []
    with _open(stream) as container:
        reader = _Frames(container)
        frames = iter(reader)
        now, frame = next(frames, (None, None))
        for number, wanted in enumerate(times):
            if now is None or wanted - now > _NEAR_S or now - wanted > _EXACT_S:
                frames = reader.jump(wanted)
                now, frame = next(frames, (None, None))
                if now is None or now - wanted > _EXACT_S:  # no index, or a wrong one
                    frames = reader.jump(0.0)
                    now, frame = next(frames, (None, None))
            while now is not None and now < wanted - _EXACT_S:
                now, frame = next(frames, (None, None))
            if now is None or now - wanted > _EXACT_S or frame is None:
                missing.append(number)
                continue
            _picture(frame, container.streams.video[0]).save(folder / f"{number}.jpg", quality=92)
            if number % 10 == 0:
                _say(seconds=wanted, of=times[-1])
    return {"missing": missing}


def _open(stream: Any) -> Any:
    options = {"format_whitelist": CONTAINERS, "enable_drefs": "0"}
    try:
        container = av.open(stream, options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise _Unusable(_no_film(stream, error)) from None
    if not container.streams.video:
        raise _Unusable("it has no pictures (no video stream)")
    video = container.streams.video[0]
    if video.codec_context is None or video.disposition & av.stream.Disposition.attached_pic:
        raise _Unusable("it has no pictures (only a cover, or of an unknown codec)")
    width, height = video.codec_context.width, video.codec_context.height
    if not 0 < width * height <= MAX_PIXELS:
        raise _Unusable(f"its frames have {width} x {height} pixels; expected some, and at most {MAX_PIXELS:,}")
    video.thread_type = "AUTO"
    return container


def _no_film(stream: Any, error: BaseException) -> str:
    """Why a file is of no container that is read: FFmpeg says no more than "Invalid argument"."""
    with suppress(Exception):
        stream.seek(0)
        with open_image(stream.read(_HEAD)) as image:
            return f"it is an image ({image.format}), not a film; `clipcap caption` captions images"
    return f"it cannot be read as a film ({_words(error)}); expected {KINDS}"


class _Frames:
    """Decoded frames with their time since the film's start, in the order of time; damaged packets are passed over."""

    def __init__(self, container: Any) -> None:
        self._container, self._video = container, container.streams.video[0]
        self._start = (container.start_time or 0) / av.time_base
        self.why = ""

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        packets = self._container.demux(self._video)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                decoded = packet.decode()
            except av.error.EOFError:
                return
            except av.FFmpegError as error:
                self.why = f": damaged ({_words(error)})"
                if isinstance(error, OSError | av.error.UndefinedError):
                    return
                continue
            for frame in decoded:
                if frame.pts is not None:
                    yield max(float(frame.pts * frame.time_base) - self._start, 0.0), frame

    def jump(self, seconds: float) -> Iterator[tuple[float, Any]]:
        """From the key frame before that time, or from the start where the container cannot seek."""
        self._container.seek(int((seconds + self._start) * av.time_base))
        return iter(self)


def _picture(frame: Any, video: Any) -> Image.Image:
    """The frame as it is shown: pixels square, the right way up, no larger than needed."""
    aspect = float(video.sample_aspect_ratio or 1) or 1.0
    width, height = frame.width * aspect, float(frame.height)
    scale = min(LONGEST_EDGE / max(width, height), 1.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], interpolation="AREA")
    return Image.fromarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


def _duration(container: Any) -> float:
    video = container.streams.video[0]
    if video.duration and video.time_base:
        return float(video.duration * video.time_base)
    return (container.duration or 0) / av.time_base


def _length(frame: Any) -> float:
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0


def _words(error: BaseException) -> str:
    text = getattr(error, "strerror", "") or str(error) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)
