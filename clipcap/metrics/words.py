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

    def tokens(self, texts: pa.Array) -> pa.ListArray:
        """As ROUGE-L reads.

        Args:
            texts: (N) strings without nulls.

        Returns:
            (N) lists of int32, none of them empty: "" is one token, whose number is 0.
        """
        lengths, numbers, _ = self._split(texts)
        return _lists(lengths, numbers)

    def words(self, texts: pa.Array) -> pa.ListArray:
        """As BLEU and CIDEr-D read.

        Args:
            texts: (N) strings without nulls.

        Returns:
            (N) lists of int32 from 1 on; "" is an empty list.
        """
        lengths, numbers, different = self._split(texts)
        if any(token.split() != [token] for token in different if token):  # rare: other white space than " "
            lengths, numbers, _ = self._split(pa.array([" ".join(t.split()) for t in texts.to_pylist()], pa.string()))
        if not (filled := numbers != 0).all():
            owners = np.arange(len(lengths)).repeat(lengths)
            lengths, numbers = np.bincount(owners[filled], minlength=len(lengths)), numbers[filled]
        return _lists(lengths, numbers)

    def _split(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Tokens of each text, all their numbers, and the different ones among them."""
        lists = pc.split_pattern(texts, " ")
        encoded = lists.flatten().dictionary_encode()
        different = encoded.dictionary.to_pylist()
        known = self._numbers
        numbers = np.array([known.setdefault(token, len(known)) for token in different], dtype=np.int32)
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        return lengths, numbers[encoded.indices.to_numpy()], different


def _lists(lengths: np.ndarray, numbers: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers, pa.int32()))
