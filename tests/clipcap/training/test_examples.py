"""Batches: every caption once, with its own image, little padding, an order that follows the seed."""

import numpy as np
import pytest
import torch

from clipcap.errors import DataError, EmbeddingError
from clipcap.model.language_model import train_tokenizer
from clipcap.training.examples import POOL, Pairs, TrainingExamples, fill

WORDS = ["a", "dog", "cat", "ball", "red", "runs", "sits", "on", "the", "grass"]


def make(images=30, per_image=3, max_tokens=64, seed=0):
    """Image i has embedding (i, 0, 0); its captions begin with its number in words."""
    rng = np.random.default_rng(seed)
    captions = [
        [" ".join([WORDS[i % 10], WORDS[i // 10], *rng.choice(WORDS, rng.integers(1, 12))]) for _ in range(per_image)]
        for i in range(images)
    ]
    embeddings = np.zeros((images, 3), np.float16)
    embeddings[:, 0] = np.arange(images)
    pairs = Pairs(embeddings, captions)
    tokenizer = train_tokenizer(pairs.texts, 300)
    eos = tokenizer.eos_token_id
    return pairs, tokenizer, TrainingExamples.from_pairs(pairs, tokenizer, eos_id=eos, max_tokens=max_tokens)


def batches(examples, size, seed=None, **options):
    """One pass: embeddings and tokens of each batch."""
    order = None if seed is None else torch.Generator().manual_seed(seed)
    found = [examples.batch(rows) for rows in examples.plan(size, order, **options)]
    assert all(batch.count == int((batch.tokens != -100).sum()) for batch in found)
    return [(batch.embeddings, batch.tokens) for batch in found]


@pytest.mark.parametrize("shuffled", [True, False])
def test_every_caption_once_with_its_own_image(shuffled):
    pairs, tokenizer, examples = make()
    seen = []
    for embeddings, tokens in batches(examples, 7, 0 if shuffled else None):
        assert embeddings.dtype == torch.float16 and tokens.dtype == torch.int64
        assert tokens.shape[0] <= 7 and (tokens != -100).any(0).all()  # as wide as its longest
        for embedding, row in zip(embeddings, tokens, strict=True):
            ids = row[row != -100].tolist()
            assert ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1]
            seen.append((int(embedding[0]), tokenizer.decode(ids[:-1]).strip()))
    expected = [(i, text) for i, captions in enumerate(pairs.captions) for text in captions]
    assert sorted(seen) == sorted(expected)
    assert len(examples.plan(7)) == 13 == -(-len(examples) // 7)


def test_each_embedding_is_held_once():
    _, _, examples = make(images=30, per_image=3)
    assert examples.embeddings.shape == (30, 3) and len(examples) == 90


def test_order_follows_the_generator_alone():
    _, _, examples = make()

    def order(seed):
        torch.rand(3)  # the global state has no say
        return [tokens.tolist() for _, tokens in batches(examples, 7, seed)]

    assert order(1) == order(1) != order(2)


def test_batches_are_of_similar_length_and_still_shuffled():
    _, _, examples = make(images=90, per_image=5)
    found = [tokens for _, tokens in batches(examples, 9, 0)]
    assert len(found) == POOL  # one pool: sorted as a whole
    padded = sum(tokens.numel() for tokens in found)
    used = int(examples.lengths.sum())
    assert padded < 1.08 * used
    unsorted = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).split(9)
    assert sum(len(rows) * int(examples.lengths[rows].max()) for rows in unsorted) > 1.3 * used  # so sorting matters
    widths = [tokens.shape[1] for tokens in found]
    assert widths != sorted(widths)


def test_a_cut_caption_has_no_end():
    _, tokenizer, examples = make(max_tokens=4)
    assert int(examples.lengths.max()) == 4
    cut = examples.batch((examples.lengths == 4).nonzero()[:, 0]).tokens
    assert len(cut) and (cut[:, 3] != tokenizer.eos_token_id).any()


def test_empty_captions_are_left_out():
    pairs = Pairs(np.ones((3, 2), np.float32), [["a dog", "  "], [], ["", "a cat"]])
    tokenizer = train_tokenizer(pairs.texts, 300)
    examples = TrainingExamples.from_pairs(pairs, tokenizer, eos_id=0, max_tokens=9)
    assert list(pairs.texts) == ["a dog", "a cat"] and examples.images.tolist() == [0, 2]


def test_embeddings_and_captions_must_pair_up():
    with pytest.raises(DataError, match="3 embeddings came with captions for 2 images"):
        Pairs(np.ones((3, 2), np.float32), [["a"], ["b"]])


def test_embeddings_that_are_not_finite():
    pairs, tokenizer, _ = make()
    pairs.embeddings[5] = np.inf
    with pytest.raises(EmbeddingError, match="validation: 1 of 30 embeddings are not finite, first at row 5"):
        TrainingExamples.from_pairs(pairs, tokenizer, eos_id=0, max_tokens=9, where="validation")


@pytest.mark.parametrize("seed", [None, 0])
def test_a_budget_of_positions_is_kept_and_used(seed):
    """Prefix and padding count; a batch is closed only where one more caption would not fit."""
    _, _, examples = make(images=60, per_image=5)
    budget, prefix = 200, 4
    plan = examples.plan(9, None if seed is None else torch.Generator().manual_seed(seed),
                         tokens_per_batch=budget, prefix_length=prefix)  # fmt: skip
    assert sorted(torch.cat(plan).tolist()) == list(range(len(examples)))
    sizes = [len(rows) * (prefix + int(examples.lengths[rows].max())) for rows in plan]
    assert max(sizes) <= budget and np.mean(sizes) > 0.85 * budget
    assert len({len(rows) for rows in plan}) > 1


def test_filling_equals_adding_one_by_one():
    rng = np.random.default_rng(0)
    for budget in (1, 7, 30, 200):
        lengths = np.sort(rng.integers(1, 20, 90))
        expected, size = [], 0
        for length in lengths:
            if size and (size + 1) * length > budget:
                expected.append(size)
                size = 0
            size += 1
        assert fill(lengths, budget) == [*expected, size]


def test_tokens_are_held_without_padding():
    _, _, examples = make()
    assert examples.tokens.numel() == int(examples.lengths.sum()) and examples.tokens.dtype == torch.int32
