"""Tokenized captions as numbers of words: metrics count which words are equal, not what they say."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Vocabulary:
    """Numbers words in the order in which they come, over any number of batches, and holds each word once.

    ROUGE-L reads what lies between single spaces, BLEU and CIDEr-D what lies between white space of any kind: the
    reference implementation does so, and it matters where a caption is empty or a token holds a no-break space.
    """

    def __init__(self) -> None:
        self._numbers = {"": 0}

    def __len__(self) -> int:
        return len(self._numbers) - 1

    def tokens(self, texts: pa.Array) -> pa.ListArray:
        """As ROUGE-L reads.

        Args:
            texts: (N) strings without nulls.

        Returns:
            (N) lists of int32, none of them empty: "" is one token, whose number is 0.
        """
        lengths, codes, different = _split(texts)
        return _lists(lengths, self._number(different)[codes])

    def words(self, texts: pa.Array) -> pa.ListArray:
        """As BLEU and CIDEr-D read.

        Args:
            texts: (N) strings without nulls.

        Returns:
            (N) lists of int32 from 1 on; "" is an empty list.
        """
        return self._words(texts, *_split(texts))

    def both(self, texts: pa.Array) -> tuple[pa.ListArray, pa.ListArray]:
        """``words`` and ``tokens``."""
        lengths, codes, different = _split(texts)
        return self._words(texts, lengths, codes, different), _lists(lengths, self._number(different)[codes])

    def words_and_other_tokens(self, texts: pa.Array) -> tuple[pa.ListArray, pa.ListArray]:
        """``words``, and ``tokens`` where they are others: null for nearly all."""
        lengths, codes, different = _split(texts)
        words, tokens = self._words(texts, lengths, codes, different), _lists(lengths, self._number(different)[codes])
        odd = np.array([token == "" or _holds_space(token) for token in different], dtype=bool)
        rows = np.logical_or.reduceat(odd[codes], np.cumsum(lengths) - lengths) if len(lengths) else odd
        return words, pc.if_else(pa.array(rows), tokens, None)

    def _words(self, texts: pa.Array, lengths: np.ndarray, codes: np.ndarray, different: list[str]) -> pa.ListArray:
        if any(map(_holds_space, different)):  # rare
            spaced = [" ".join(text.split()) for text in texts.to_pylist()]
            lengths, codes, different = _split(pa.array(spaced, pa.string()))
        numbers = self._number(different)[codes]
        if not (filled := numbers != 0).all():
            owners = np.arange(len(lengths)).repeat(lengths)
            lengths, numbers = np.bincount(owners[filled], minlength=len(lengths)), numbers[filled]
        return _lists(lengths, numbers)

    def _number(self, different: list[str]) -> np.ndarray:
        known = self._numbers
        return np.array([known.setdefault(token, len(known)) for token in different], dtype=np.int32)


def repeats(words: pa.ListArray) -> np.ndarray:
    """(N) bool: whether a pair of neighbouring words comes twice. Where none does, no longer n-gram comes twice."""
    numbers = words.flatten().to_numpy().astype(np.int64)
    lengths = np.diff(words.offsets.to_numpy())
    size = int(numbers.max(initial=0)) + 1
    if len(lengths) * size * size >= 2**63:  # no room for the keys below, and true is always right
        return np.ones(len(lengths), dtype=bool)
    rows = np.arange(len(lengths)).repeat(lengths)
    keys = ((rows[1:] * size + numbers[:-1]) * size + numbers[1:])[rows[1:] == rows[:-1]]
    keys.sort()
    result = np.zeros(len(lengths), dtype=bool)
    result[keys[1:][keys[1:] == keys[:-1]] // (size * size)] = True
    return result


def _holds_space(token: str) -> bool:
    return token != "" and token.split() != [token]


def _split(texts: pa.Array) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """What lies between single spaces: how many in each text, the code of each, and what the codes stand for."""
    lists = pc.split_pattern(texts, " ")
    encoded = lists.flatten().dictionary_encode()
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    return lengths, encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _lists(lengths: np.ndarray, numbers: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers, pa.int32()))
