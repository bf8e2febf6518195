"""BLEU, CIDEr-D and ROUGE-L against a second, slow reading of their definitions, and what must always hold."""

from __future__ import annotations

import math
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import duckdb
import pytest

from clipcap.metrics.coco import BLEU, CIDER, NGRAMS, ngram_metrics
from clipcap.metrics.rouge import longest_common_subsequence, rouge_l
from clipcap.resources import resource


def ngrams(text, n):
    tokens = text.split()
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def brute_bleu(pairs):
    """BLEU-1..4 of a list of (candidate, references), read off the definition."""
    correct, guessed, length, reference_length = [0] * 4, [0] * 4, 0, 0
    for candidate, references in pairs:
        own = len(candidate.split())
        lengths = sorted(len(reference.split()) for reference in references)
        length += own
        reference_length += min(lengths, key=lambda other: abs(other - own))  # sorted: a tie goes to the shorter
        for n in range(1, 5):
            found = ngrams(candidate, n)
            guessed[n - 1] += sum(found.values())
            for gram, count in found.items():
                correct[n - 1] += min(count, max(ngrams(reference, n)[gram] for reference in references))
    ratio = (length + 1e-15) / (reference_length + 1e-9)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    precisions = [(c + 1e-15) / (g + 1e-9) for c, g in zip(correct, guessed, strict=True)]
    return [math.prod(precisions[:n]) ** (1 / n) * penalty for n in range(1, 5)]


def brute_cider(candidates, references):
    """key -> CIDEr-D, read off the definition with vectors over the whole vocabulary."""
    values = {}
    for key, candidate in candidates.items():
        total = 0.0
        for reference in references[key]:
            difference = sum(ngrams(candidate, 2).values()) - sum(ngrams(reference, 2).values())
            for n in range(1, 5):
                ours, theirs = ngrams(candidate, n), ngrams(reference, n)
                idf = {}
                for gram in ours | theirs:
                    df = sum(any(ngrams(other, n)[gram] for other in references[image]) for image in candidates)
                    idf[gram] = math.log(len(candidates)) - math.log(max(1, df))
                clipped = sum(min(ours[g], theirs[g]) * theirs[g] * idf[g] ** 2 for g in idf)
                norms = [math.sqrt(sum((side[g] * idf[g]) ** 2 for g in idf)) for side in (ours, theirs)]
                if all(norms):
                    total += clipped / math.prod(norms) * math.exp(-(difference**2) / 72)
        values[key] = 10 * total / 4 / len(references[key])
    return values


def random_set(seed):
    rng = random.Random(seed)
    vocabulary = ["a", "b", "c", "d", "e"]

    def text(shortest):
        return " ".join(rng.choice(vocabulary) for _ in range(rng.randint(shortest, 8)))

    keys = [f"image {i}" for i in range(rng.randint(1, 6))]
    return {key: text(0) for key in keys}, {key: [text(0) for _ in range(rng.randint(1, 4))] for key in keys}


@pytest.mark.parametrize("seed", range(25))
def test_sql_agrees_with_the_definitions_on_random_sets(seed):
    candidates, references = random_set(seed)
    values = ngram_metrics(candidates, references)
    corpus = brute_bleu([(candidates[key], references[key]) for key in candidates])
    assert [values[f"bleu_{n}"][0] for n in range(1, 5)] == pytest.approx(corpus, rel=1e-9)
    for key in candidates:
        own = brute_bleu([(candidates[key], references[key])])
        assert [values[f"bleu_{n}"][1][key] for n in range(1, 5)] == pytest.approx(own, rel=1e-9)
    cider = brute_cider(candidates, references)
    assert values["cider"][1] == pytest.approx(cider, abs=1e-9)
    assert values["cider"][0] == pytest.approx(sum(cider.values()) / len(cider), abs=1e-9)


def test_a_candidate_equal_to_its_only_reference_is_perfect():
    texts = {"1": "a b c d e", "2": "f g h i j"}
    values = ngram_metrics(texts, {key: [text] for key, text in texts.items()})
    for n in range(1, 5):
        assert values[f"bleu_{n}"][0] == pytest.approx(1)
    assert values["cider"][1] == pytest.approx({"1": 10, "2": 10})
    assert rouge_l("a b c", ["a b c"]) == pytest.approx(1)


def test_one_image_alone_has_no_cider_and_nothing_in_common_scores_nothing():
    assert ngram_metrics({"1": "a b"}, {"1": ["a b"]})["cider"][0] == 0
    values = ngram_metrics({"1": "a b c d", "2": "x"}, {"1": ["e f g h"], "2": ["y"]})
    assert values["cider"][0] == 0
    assert values["bleu_4"][0] < 1e-3
    assert rouge_l("a b", ["c d"]) == 0


def test_closest_reference_length_prefers_the_shorter_on_a_tie():
    """Lengths 2 and 4 are both one away from 3: against the longer one there would be a brevity penalty."""
    assert ngram_metrics({"1": "a b c"}, {"1": ["a b c d", "a b"]}, cider=False)["bleu_1"][0] == pytest.approx(1)


def test_other_references_are_not_counted():
    candidates, references = {"1": "a b", "2": "c d"}, {"1": ["a b"], "2": ["c e"]}
    assert ngram_metrics(candidates, references) == ngram_metrics(candidates, references | {"3": ["a b c d"]})


def test_equal_inputs_give_equal_bits_in_any_thread():
    candidates, references = random_set(3)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: ngram_metrics(candidates, references), range(8)))
    assert all(result == results[0] for result in results)


def test_the_statements_run_by_hand_as_their_comments_say():
    files = sorted((resource("sql") / "metrics").glob("[0-9]*.sql"))
    assert [file.stem for file in files] == list(NGRAMS + BLEU + CIDER)
    with duckdb.connect() as connection:
        connection.execute("create table candidates (image integer, words integer[])")
        connection.execute('create table "references" (image integer, text integer, words integer[])')
        connection.execute("insert into candidates values (0, [1, 2]), (1, [])")
        connection.execute("""insert into "references" values (0, 0, [1, 2]), (0, 1, [3]), (1, 2, [1])""")
        for file in files:
            text = file.read_text()
            assert text.startswith("-- Grain: one row")
            connection.execute(text)
            table = file.stem.partition("_")[2]
            assert connection.execute(f"select count(*) from {table}").fetchone()[0] > 0
        assert connection.execute(
            "select count(*), sum(guessed_1) from bleu_per_image natural join bleu_counts"
        ).fetchone() == (2, 2)
        assert connection.execute("select count(*) from reference_ngrams").fetchone() == (5,)


def test_rouge_takes_the_best_precision_and_recall_apart():
    """Precision 3/4 comes from the long reference, recall 1 from the short one."""
    precision, recall = 3 / 4, 1.0
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert rouge_l("a b c x", ["a b c d e f", "x"]) == pytest.approx(expected)


def test_rouge_reads_an_empty_caption_as_one_empty_token():
    assert rouge_l("", ["a b"]) == 0
    assert rouge_l("", ["a b", ""]) == pytest.approx(1)


def test_common_subsequence_agrees_with_trying_every_one():
    rng = random.Random(0)
    for _ in range(200):
        first, second = ([rng.choice("abc") for _ in range(rng.randint(0, 7))] for _ in range(2))
        longest = max(
            size
            for size in range(len(first) + 1)
            if {tuple(c) for c in combinations(first, size)} & {tuple(c) for c in combinations(second, size)}
        )
        assert longest_common_subsequence(first, second) == longest
