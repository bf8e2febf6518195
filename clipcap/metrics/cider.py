"""CIDEr-D in memory: thousands of captions a second against references that are read once.

Vedantam et al. 2015, as ``sql/metrics`` computes it. Reports use that statement; this gives the same number to what
asks for it all the time: rewards, and monitors of a training.

Legend: N candidates, I images, R references, T tokens, G distinct n-grams of one order, E entries (a distinct n-gram
of one caption).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipcap.errors import DataError

END = "\n"
"""A token for the end of a caption, where ending shall count. No word is ever equal to it."""

_ORDERS = (1, 2, 3, 4)
_SIGMA = 6.0
_TOKEN_BITS = 24
"""The key of an n-gram: the number of all but its last token, shifted by so many bits, and its last token."""


class CiderD:
    """CIDEr-D against references that stay, with the document frequencies of those references.

    Built from the evaluated images it equals :func:`clipcap.metrics.coco.ngram_metrics`. Built from the training set
    it scores captions of a few of its images with the frequencies of all.

    Args:
        references: for each image its references as tokens. Images without references are no documents.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        per_image = np.array([len(image) for image in references], dtype=np.int64)
        self._first = _starts(per_image)  # (I + 1) first reference of each image
        texts, self._vocabulary = _Texts.read([text for image in references for text in image], {})
        self._lengths = texts.lengths  # (R)
        image_of = np.arange(len(per_image)).repeat(per_image)  # (R)
        documents = int(np.count_nonzero(per_image))
        self._orders: list[_Order] = []
        numbers = np.zeros_like(texts.tokens)
        for n in _ORDERS:
            places, keys = texts.ngrams(n, numbers)
            known, found = np.unique(keys, return_inverse=True)
            numbers[places] = found
            self._orders.append(_Order.of(known, texts.rows[places], found, image_of, documents))

    def score(self, candidates: Sequence[Sequence[str]], images: Sequence[int]) -> np.ndarray:
        """Scores captions, any number for an image, each by itself.

        Args:
            candidates: tokens of each caption; none is a caption, too, and scores 0.
            images: for each caption the place of its image in the references.

        Returns:
            (N) float64, 0 to 10.

        Raises:
            DataError: not one image for each candidate, or an image without references.
        """
        image = np.array(images, dtype=np.int64)
        self._check(len(candidates), image)
        texts, _ = _Texts.read(candidates, self._vocabulary)
        first, count = self._first[image], self._first[image + 1] - self._first[image]  # (N), (N)
        candidate, reference = _ranges(first, count)  # (pairs) each candidate with each of its references
        similarity = np.zeros(len(candidate))
        numbers = np.zeros_like(texts.tokens)
        for n, order in zip(_ORDERS, self._orders, strict=True):
            places, keys = texts.ngrams(n, numbers)
            numbers[places] = found = order.number(keys)
            similarity += order.cosines(texts.rows[places], found, len(candidates), candidate, reference)
        # Differences of lengths are differences of bigram counts, but for captions without a bigram.
        bigrams, theirs = np.maximum(texts.lengths - 1, 0), np.maximum(self._lengths - 1, 0)
        penalty = np.exp(-((bigrams[candidate] - theirs[reference]) ** 2) / (2 * _SIGMA**2))
        total = np.bincount(candidate, similarity / len(_ORDERS) * penalty, len(candidates))
        mean: np.ndarray = 10 * total / count
        return mean

    def _check(self, candidates: int, image: np.ndarray) -> None:
        if len(image) != candidates:
            raise DataError(f"CIDEr-D of {candidates} captions needs the image of each, got {len(image)}")
        outside = (image < 0) | (image >= len(self._first) - 1)
        bad = image[outside] if outside.any() else image[self._first[image + 1] == self._first[image]]
        if len(bad):
            raise DataError(
                f"CIDEr-D: {len(bad)} of {candidates} captions belong to images without references, first to image "
                f"{bad[0]} of {len(self._first) - 1}: give it references, or leave its captions out"
            )


@dataclass(frozen=True)
class _Texts:
    """Captions as numbers of tokens, one after another."""

    tokens: np.ndarray
    """(T) int64."""
    lengths: np.ndarray
    """Tokens of each caption."""
    rows: np.ndarray
    """(T) which caption each token belongs to."""
    left: np.ndarray
    """(T) tokens from this one to its caption's end."""

    @classmethod
    def read(cls, texts: Sequence[Sequence[str]], vocabulary: Mapping[str, int]) -> tuple[_Texts, dict[str, int]]:
        """Also the tokens that ``vocabulary`` lacks, with the numbers after its own."""
        unseen: dict[str, int] = {}
        size = len(vocabulary)
        numbers = []
        for text in texts:
            for token in text:
                number = vocabulary.get(token)
                numbers.append(unseen.setdefault(token, size + len(unseen)) if number is None else number)
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        ends = lengths.cumsum().repeat(lengths)
        rows = np.arange(len(lengths)).repeat(lengths)
        return cls(np.array(numbers, dtype=np.int64), lengths, rows, ends - np.arange(len(ends))), unseen

    def ngrams(self, n: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams: where each begins, and its key.

        Args:
            n: their order.
            numbers: (T) number of the (n-1)-gram that begins at each token; not read for n = 1, but for zeros.
        """
        places = (self.left >= n).nonzero()[0]
        return places, numbers[places] << _TOKEN_BITS | self.tokens[places + n - 1]


@dataclass(frozen=True)
class _Order:
    """The references' n-grams of one order, numbered 0 … G-1 by their keys."""

    known: np.ndarray
    """(G) int64: their keys, ascending."""
    idf: np.ndarray
    """(G + 1) float64: log(documents) - log(document frequency); the last is that of every n-gram not known."""
    grams: np.ndarray
    """(E) int32: distinct n-grams of each reference, reference by reference."""
    counts: np.ndarray
    """(E) int32: how often the reference has it."""
    starts: np.ndarray
    """(R + 1) int64: first entry of each reference, and the end."""
    norms: np.ndarray
    """(R) float64: length of each reference's vector."""

    @classmethod
    def of(cls, known: np.ndarray, rows: np.ndarray, grams: np.ndarray, image_of: np.ndarray, documents: int) -> _Order:
        """From all n-grams (reference and number of each) and the image of each reference."""
        size = max(1, len(known))
        images = np.unique(image_of[rows] * size + grams)  # once for each image, however many references have it
        frequency = np.ones(len(known) + 1)  # what no reference has counts as if one had it
        frequency[:-1] = np.bincount(images % size, minlength=len(known))[: len(known)]
        idf = np.log(max(1, documents)) - np.log(frequency)
        entries, counts = np.unique(rows * size + grams, return_counts=True)
        row, gram = entries // size, entries % size
        norms = np.sqrt(np.bincount(row, (counts * idf[gram]) ** 2, len(image_of)))
        starts = _starts(np.bincount(row, minlength=len(image_of)))
        return cls(known, idf, gram.astype(np.int32), counts.astype(np.int32), starts, norms)

    def number(self, keys: np.ndarray) -> np.ndarray:
        """Numbers of n-grams; those not known get numbers from G on, equal ones the same."""
        if not len(self.known):
            return np.unique(keys, return_inverse=True)[1]
        numbers = np.minimum(self.known.searchsorted(keys), len(self.known) - 1)
        unseen = self.known[numbers] != keys
        numbers[unseen] = len(self.known) + np.unique(keys[unseen], return_inverse=True)[1]
        return numbers

    def cosines(
        self, rows: np.ndarray, grams: np.ndarray, candidates: int, candidate: np.ndarray, reference: np.ndarray
    ) -> np.ndarray:
        """The clipped cosine of each pair of a candidate and a reference.

        Args:
            rows: for each n-gram of the candidates its candidate, 0 to ``candidates`` - 1.
            grams: its number.
            candidates: N.
            candidate: (pairs) of each pair.
            reference: (pairs) of each pair.
        """
        size = int(max(grams.max(initial=0) + 1, len(self.known)))
        entries, counts = np.unique(rows * size + grams, return_counts=True)
        weights = counts * self.idf[np.minimum(entries % size, len(self.known))]
        norms = np.sqrt(np.bincount(entries // size, weights**2, candidates))
        # The references' entries are looked up among the candidates', which are few and stay in the cache.
        pair, entry = _ranges(self.starts[reference], self.starts[reference + 1] - self.starts[reference])
        gram = self.grams[entry]
        wanted = candidate[pair] * size + gram
        place = entries.searchsorted(wanted)
        place[place == len(entries)] = 0
        both = (entries[place] == wanted).nonzero()[0] if len(entries) else place[:0]
        theirs = self.counts[entry[both]] * self.idf[gram[both]]
        products = np.bincount(pair[both], np.minimum(weights[place[both]], theirs) * theirs, len(candidate))
        # A norm of zero (no n-gram, or only such as stand in every image) makes the product zero, too.
        scale = norms[candidate] * self.norms[reference]
        similarity: np.ndarray = np.divide(products, scale, out=np.zeros(len(candidate)), where=scale > 0)
        return similarity


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], lengths.cumsum()])


def _ranges(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers first … first + count - 1 of each range, one range after another, with the range of each."""
    owner = np.arange(len(count)).repeat(count)
    return owner, np.arange(len(owner)) + (first - _starts(count)[:-1])[owner]
