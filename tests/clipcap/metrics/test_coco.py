"""BLEU and CIDEr-D against a second, slow reading of their definitions, and what must always hold."""

from __future__ import annotations

import math
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pytest

from clipcap.metrics import coco
from clipcap.metrics.coco import BLEU, CIDER, COUNTS_SCHEMA, NGRAMS, ngram_metrics
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


def test_one_image_alone_has_no_cider_and_nothing_in_common_scores_nothing():
    assert ngram_metrics({"1": "a b"}, {"1": ["a b"]})["cider"][0] == 0
    values = ngram_metrics({"1": "a b c d", "2": "x"}, {"1": ["e f g h"], "2": ["y"]})
    assert values["cider"][0] == 0
    assert values["bleu_4"][0] < 1e-3


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


def test_no_bit_depends_on_threads_or_on_the_order_of_references(monkeypatch):
    rng = random.Random(4)
    sets = [random_set(seed) for seed in range(20)]
    candidates = {f"{place} {key}": text for place, (texts, _) in enumerate(sets) for key, text in texts.items()}
    references = {f"{place} {key}": texts for place, (_, sides) in enumerate(sets) for key, texts in sides.items()}
    expected = ngram_metrics(candidates, references)
    for threads in (1, 3):
        monkeypatch.setattr(coco, "_SETTINGS", {"threads": threads, "preserve_insertion_order": False})
        shuffled = {key: rng.sample(texts, len(texts)) for key, texts in references.items()}
        found = ngram_metrics(candidates, shuffled)
        assert found == expected
        assert found.counts == expected.counts


def test_values_follow_from_the_counts():
    candidates, references = random_set(5)
    values = ngram_metrics(candidates, references)
    assert values.counts.schema == COUNTS_SCHEMA
    assert values.counts["key"].to_pylist() == list(candidates)
    for row in values.counts.to_pylist():
        key = row["key"]
        assert row["candidate_length"] == row["guessed_1"] == len(candidates[key].split())
        assert row["reference_length"] in {len(text.split()) for text in references[key]}
        ratio = (row["candidate_length"] + 1e-15) / (row["reference_length"] + 1e-9)
        penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1
        precisions = [(row[f"correct_{n}"] + 1e-15) / (row[f"guessed_{n}"] + 1e-9) for n in range(1, 5)]
        for n in range(1, 5):
            own = math.prod(precisions[:n]) ** (1 / n) * penalty
            assert values[f"bleu_{n}"][1][key] == pytest.approx(own, rel=1e-12)
    assert ngram_metrics(candidates, references, bleu=False).counts is None


def test_a_token_with_other_white_space_is_two_words_here():
    assert ngram_metrics({"1": "a\u00a0b c"}, {"1": ["a b c"]})["bleu_3"][0] == pytest.approx(1)


@pytest.mark.parametrize("size", [32_764, 32_767, 32_768, 65_540])
def test_a_large_vocabulary_makes_no_ngrams_collide(size):
    """On both sides of what narrow n-grams hold: captions of four words share nothing but what they share."""
    words = [f"w{number}" for number in range(size)]
    references = {str(number): [" ".join(words[number : number + 4])] for number in range(0, size - 4, 4)}
    candidates = {key: texts[0] for key, texts in references.items()}
    last = " ".join([words[0], *words[-3:]])
    values = ngram_metrics(candidates | {"last": last}, references | {"last": [" ".join(words[-4:])]})
    assert values["bleu_4"][1]["0"] == pytest.approx(1) and values["cider"][1]["0"] == pytest.approx(10)
    row = values.counts.to_pylist()[-1]
    assert [row[f"correct_{n}"] for n in range(1, 5)] == [3, 2, 1, 0]


def test_the_statements_run_by_hand_as_their_comments_say():
    """From captions with keys on; the three that make and join tables of words come first and last."""
    files = sorted((resource("sql") / "metrics").glob("*.sql"))
    first = ["00_candidates", "00_ngrams_narrow", "00_ngrams_wide", "00_references", "00_rouge_pairs"]
    assert [file.stem for file in files] == [*first, *NGRAMS, *BLEU, *CIDER, "13_per_image"]
    with duckdb.connect() as connection:
        for kind in ("candidate", "reference"):
            connection.execute(
                f"create table {kind}_captions (key varchar, words integer[], repeats boolean, tokens integer[])"
            )
        connection.execute("insert into candidate_captions values ('x', [1, 2], false, null), ('y', [], true, [0])")
        connection.execute(
            "insert into reference_captions "
            "values ('x', [1, 2], false, null), ('x', [3], true, null), ('y', [1], true, null), ('z', [9], false, null)"
        )
        connection.execute("create table rouge_l_per_image as select unnest([0, 1]) as image, 0.5::double as value")
        for file in files:
            text = file.read_text()
            table = file.stem.partition("_")[2]
            assert text.startswith("-- the words of" if table.startswith("ngrams_") else "-- Grain: ")
            connection.execute(text)
            if table.startswith("ngrams_"):  # macros
                continue
            assert connection.execute(f'select count(*) from "{table}"').fetchone()[0] > 0
        assert connection.execute("select count(*) from reference_ngrams").fetchone() == (5,)
        assert connection.execute("from rouge_pairs order by all").fetchall() == [
            (0, [1, 2], [1, 2]),
            (0, [1, 2], [3]),
            (1, [0], [1]),
        ]
        assert connection.execute("select key, rouge_l from per_image order by key").fetchall() == [
            ("x", 0.5),
            ("y", 0.5),
        ]
