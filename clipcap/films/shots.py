"""Where a film cuts, and which frames stand for it: from a few numbers of every frame. Needs only NumPy.

A hard cut is a change between two frames that is both large and much larger than the changes around it, so that fast
movement is none. That rule and its numbers are those of PySceneDetect's AdaptiveDetector, made finer for pictures in
which nothing moves, and for cuts close together (the median of what is around, not its mean). A change that is undone
at once (a flash, a damaged frame) is passed over. Plain frames end a shot as well, which finds fades. A slow dissolve
is not looked for: the frames within a long shot are there for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from clipcap.config import FilmConfig
from clipcap.films.address import Span

GRID = (9, 16)
"""Rows and columns of the small grey picture of each frame."""
_WINDOW = 2  # frames on each side that a change is compared with
_SMALLEST_CUT = 15.0  # of 255, mean over pixels and colours
_QUIET_CUT, _QUIET_RATIO = 6.0, 8.0  # the same where nothing moves: slides, drawings, a locked camera
_PLAIN = 4.0  # spread of grey levels below which there is nothing to see
_BLACK, _BLACK_SPREAD = 24.0, 8.0  # a dark frame with this little in it is one too: film grain, a fade's last frames
_SAME_MEAN, _SAME_CELL = 3.0, 20.0  # grey levels: no cell of two near-duplicates differs by more than the second
_SHARP_ENOUGH = 0.8  # of the sharpest frame of the part


@dataclass
class Signal:
    """What is known of every frame, in the order of time.

    Args:
        time_s: float64 (N,), seconds since the film's start.
        change: float32 (N,), mean absolute difference to the frame before, 0 to 255; 0 for the first.
        level: float32 (N,), mean grey level, 0 to 255.
        spread: float32 (N,), standard deviation of the grey levels.
        sharpness: float32 (N,), variance of the Laplacian.
        small: uint8 (N, 9, 16), the frame in grey, averaged to :data:`GRID`.
        end_s: where the last frame ends.
    """

    time_s: np.ndarray
    change: np.ndarray
    level: np.ndarray
    spread: np.ndarray
    sharpness: np.ndarray
    small: np.ndarray
    end_s: float

    @property
    def is_plain(self) -> np.ndarray:
        """bool (N,): black, white, or of one colour."""
        dark = (self.level < _BLACK) & (self.spread < _BLACK_SPREAD)
        return dark | (self.spread < _PLAIN)


def find_cuts(signal: Signal, config: FilmConfig) -> list[int]:
    """Numbers of the frames with which a shot begins, plain frames apart; the first frame is none of them."""
    plain, cuts = signal.is_plain, []
    seen = -1 if plain[0] else 0  # the last frame that is not plain
    for number in range(1, len(signal.time_s)):
        if plain[number]:
            continue
        if plain[number - 1]:
            if seen >= 0 and not _looks_same(signal, seen, number):  # else a flash, or a blink of a fade
                cuts.append(number)
            seen = number
            continue
        seen = number
        if _is_cut(signal, number, config.cut_ratio):
            cuts.append(number)
    kept: list[int] = []
    for number in cuts:
        before = signal.time_s[kept[-1]] if kept else signal.time_s[0]
        if signal.time_s[number] - before >= config.min_shot_s:
            kept.append(number)
    return kept


def _is_cut(signal: Signal, number: int, ratio: float) -> bool:
    change = float(signal.change[number])
    if change < _QUIET_CUT:
        return False
    first, last = max(number - _WINDOW, 1), min(number + _WINDOW, len(signal.change) - 1)
    around = np.concatenate([signal.change[first:number], signal.change[number + 1 : last + 1]])
    times = change / max(float(np.median(around)), 1.0) if around.size else change
    if times < ratio or (change < _SMALLEST_CUT and times < _QUIET_RATIO):
        return False
    return not any(_looks_same(signal, number - 1, later) for later in range(number + 1, last + 1))


def _looks_same(signal: Signal, one: int, other: int) -> bool:
    difference = np.abs(signal.small[one].astype(np.int16) - signal.small[other])
    return bool(difference.mean() < _SAME_MEAN and difference.max() < _SAME_CELL)


def choose_frames(signal: Signal, config: FilmConfig) -> list[Span]:
    """The frames that stand for the film: sharp, not plain, each unlike the one before it.

    Args:
        signal: of the whole film.
        config: its ``max_gap_s`` is the longest part that one frame stands for, where the picture changes.

    Returns:
        spans in the order of time that do not overlap; empty where every frame is plain.
    """
    starts = [0, *find_cuts(signal, config)]
    plain, chosen = signal.is_plain, [-1]
    spans: list[Span] = []
    for start, stop in zip(starts, [*starts[1:], len(signal.time_s)], strict=True):
        inside = np.flatnonzero(~plain[start:stop]) + start
        if not inside.size:
            continue
        begin, end = float(signal.time_s[inside[0]]), _end_of(signal, int(inside[-1]))
        parts = max(int(np.ceil((end - begin) / config.max_gap_s - 1e-6)), 1)
        edges = np.linspace(begin, end, parts + 1)
        for number, (left, right) in enumerate(pairwise(edges)):
            within = inside[(signal.time_s[inside] >= left - 1e-6) & (signal.time_s[inside] < right)]
            if not within.size:
                continue
            best = _best(signal, within, (left + right) / 2)
            if number and spans and _looks_same(signal, chosen[-1], best):
                spans[-1] = Span(spans[-1].time_s, spans[-1].start_s, float(right))
                continue
            chosen.append(best)
            spans.append(Span(float(signal.time_s[best]), float(left), float(right)))
    return spans


def _end_of(signal: Signal, number: int) -> float:
    is_last = number + 1 >= len(signal.time_s)
    return max(signal.end_s, float(signal.time_s[-1])) if is_last else float(signal.time_s[number + 1])


def _best(signal: Signal, within: np.ndarray, middle_s: float) -> int:
    """Of the frames that are nearly as sharp as the sharpest, the one nearest to the middle."""
    sharpness = signal.sharpness[within]
    sharp = within[sharpness >= _SHARP_ENOUGH * sharpness.max()]
    return int(sharp[np.abs(signal.time_s[sharp] - middle_s).argmin()])
