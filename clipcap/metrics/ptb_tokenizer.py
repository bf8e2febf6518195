"""The tokenizer of the COCO caption evaluation, without Java.

Published caption metrics are computed on Penn Treebank tokens as one particular program makes them (Stanford CoreNLP
3.4.1, lower-cased, its punctuation then dropped). This is an independent description of what comes out of it: the
rules stand in :mod:`clipcap.metrics.ptb_rules`, and here is how they are applied to millions of captions.

Known to differ: a caption is read by itself here, while the original reads a whole file, where the next line's first
word can decide a full stop ("no." before "5"); some numbers in several groups; soft hyphens and combining marks inside
words that are odd for other reasons, too; spaces beyond ASCII inside addresses; rare quotation marks in a row. On real
captions with random punctuation, abbreviations, quotes, addresses and markup put in, one in some ten thousand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipcap.metrics.ptb_rules import tokens_of

DROPPED = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", *".?!,:;-", "--", "..."])
"""Tokens that the evaluation drops. Brackets arrive lower-cased, so theirs never do."""

_BATCH = 65_536
"""Captions tokenized at a time: enough to share what their words have in common, and no more memory than that."""


def tokenize(captions: Sequence[str]) -> list[str]:
    """Tokenizes captions for the metrics.

    Args:
        captions: raw text, one caption each; line breaks count as spaces, half a surrogate pair as U+FFFD.

    Returns:
        For each caption its lower-cased tokens joined by single spaces, punctuation dropped; "" where nothing is left.
        A token may hold a no-break space (``3 1/2`` is one token).
    """
    result: list[str] = []
    for start in range(0, len(captions), _BATCH):
        batch = captions[start : start + _BATCH]
        try:
            array = pa.array(batch, pa.string())
        except UnicodeEncodeError:
            array = pa.array([_mended(caption) for caption in batch], pa.string())
        result += _joined(array).to_pylist()
    return result


def tokenize_array(captions: pa.Array) -> pa.Array:
    """The same for an Arrow array of strings (any number; null is an empty caption), without a Python string for each.

    Returns:
        (N) string array without nulls.
    """
    batches = [_joined(captions[start : start + _BATCH]) for start in range(0, len(captions), _BATCH)]
    return pa.concat_arrays(batches) if batches else pa.array([], pa.string())


def _mended(caption: str) -> str:
    return caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# A caption is cut at its spaces. The same chunks come again and again, so the rules read each of them once; only where
# a rule could see beyond a chunk's end is the whole caption read. Tests hold that both give the same for any text.


def _joined(captions: pa.Array) -> pa.Array:
    """Tokens of each caption, joined by spaces."""
    texts = pc.utf8_trim(captions.cast(pa.string()).fill_null(""), " \t\r\n")
    lists = pc.split_pattern(texts, " ")
    encoded = lists.flatten().dictionary_encode()
    chunks, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    owners = np.arange(len(texts)).repeat(pc.list_value_length(lists).to_numpy(zero_copy_only=False))

    filled = np.array([chunk != "" for chunk in chunks], dtype=bool)[codes]  # two spaces leave an empty chunk between
    codes, owners = codes[filled], owners[filled]
    open_ = _is_open(chunks, codes, owners)
    if open_.any():  # such a caption becomes one chunk
        whole = np.unique(owners[open_])
        first = np.searchsorted(owners, whole)
        keep = ~np.isin(owners, whole)
        keep[first] = True
        codes[first] = len(chunks) + np.arange(len(whole))
        codes, owners = codes[keep], owners[keep]
        chunks += texts.take(pa.array(whole)).to_pylist()

    tokens = [(_kept_tokens if len(chunk) <= _KEPT else _chunk_tokens)(chunk) for chunk in chunks]
    spoken = np.array([token != "" for token in tokens], dtype=bool)[codes]
    codes, owners = codes[spoken], owners[spoken]
    offsets = np.searchsorted(owners, np.arange(len(texts) + 1)).astype(np.int32)
    words = pa.array(tokens, pa.string()).take(pa.array(codes))
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), words), " ")


# What the rules see across a space: markup; more digits after digits, after a bracket or after "no."; and which
# word follows a single letter with a full stop. Other space than " " inside a chunk is left to them as well.
_BEFORE_DIGIT = re.compile(r".*(?:[0-9)]|[A-Za-z]\.)", re.DOTALL)
_BEFORE_CAPITAL = re.compile(r"(?![A-Za-z]{2,}\.\Z).*[A-Za-z]\.", re.DOTALL)


_ALONE, _SEES_DIGIT, _SEES_CAPITAL, _DIGIT, _CAPITAL = 1, 2, 4, 8, 16


def _sight(chunk: str) -> int:
    """What a rule may see beyond the chunk's end, and what of it is seen from the chunk before."""
    return (
        _ALONE * ("<" in chunk or chunk.split() != [chunk])
        | _SEES_DIGIT * bool(_BEFORE_DIGIT.fullmatch(chunk))
        | _SEES_CAPITAL * bool(_BEFORE_CAPITAL.fullmatch(chunk))
        | _DIGIT * ("0" <= chunk[:1] <= "9")
        | _CAPITAL * ("A" <= chunk[:1] <= "Z")
    )


def _is_open(chunks: list[str], codes: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(codes) whether a rule may read on from this chunk into the next one of its caption."""
    sights = np.array([(_kept_sight if len(chunk) <= _KEPT else _sight)(chunk) for chunk in chunks], np.uint8)[codes]
    result: np.ndarray = (sights & _ALONE) != 0
    here, next_ = sights[:-1], sights[1:]
    seen = ((here & _SEES_DIGIT != 0) & (next_ & _DIGIT != 0)) | ((here & _SEES_CAPITAL != 0) & (next_ & _CAPITAL != 0))
    result[:-1] |= seen & (owners[1:] == owners[:-1])
    return result


_PLAIN = re.compile(r"[A-Za-z]+")
_TWO_WORDS = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])


def _chunk_tokens(chunk: str) -> str:
    if _PLAIN.fullmatch(chunk) and (lowered := chunk.lower()) not in _TWO_WORDS:
        return lowered
    return " ".join(token for token in tokens_of(chunk) if token not in DROPPED)


_KEPT = 40
"""Longer chunks are read again each time: they seldom come twice."""
_kept_tokens = lru_cache(maxsize=_BATCH)(_chunk_tokens)
_kept_sight = lru_cache(maxsize=_BATCH)(_sight)
