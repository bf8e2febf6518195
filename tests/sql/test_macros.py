"""Each macro against what is worked out by hand or by numpy on the tiny lake.

Covers: cosine whatever the dimension, ties, k, vectors that have no direction, several encoders; which model an empty
name means; captions that differ, and by how much; the worst images; words; captions as of a run; metrics of two models.
"""

from __future__ import annotations

import re
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from tiny_lake import (
    BATCH,
    CAPTIONED,
    CAPTIONS,
    EMBEDDINGS,
    ENCODER,
    ENCODER_HASH,
    NEW,
    OLD,
    RUN,
    SHARDS,
    START,
    key,
    url,
)  # fmt: skip

from clipcap.errors import WarehouseError
from clipcap.storage.manifest import commit_generation
from clipcap.storage.records import Promotion, Run
from clipcap.warehouse import query
from clipcap.warehouse.queries import list_macros

TEXTS = pa.schema([("sample_key", pa.string()), ("caption_number", pa.int32()), ("caption", pa.string()),
                   ("clip_embedding", pa.list_(pa.float16(), 4))])  # fmt: skip


def ask(tiny, statement: str, **parameters) -> list[dict]:
    return query(tiny.lake, statement, parameters or None).to_pylist()


def embed(tiny, vectors: dict[int, list[float]], encoder: str = ENCODER, dim: int = 4) -> None:
    """Gives rows of the first shard other vectors, in files of an encoder."""
    shard = SHARDS[0]
    schema = EMBEDDINGS.set(2, pa.field("clip_embedding", pa.list_(pa.float16(), dim)))
    rows = [{"sample_key": key(row), "sha256": f"{row:064x}", "clip_embedding": np.array(vector, np.float16)}
            for row, vector in vectors.items()]  # fmt: skip
    tiny.entry(
        f"embed/{encoder}/{BATCH}/{shard}",
        {"embeddings": tiny.table(tiny.lake.embeddings(encoder, BATCH, shard), schema, rows),
         "ledger": tiny.ledger("embed", shard, {row: ("ok", "") for row in vectors}, encoder)},
        {"ok": len(vectors)}, batch_id=BATCH, shard_id=shard, encoder_id=encoder, encoder="toy", clip_dim=dim,
    )  # fmt: skip


def test_similar_to_is_the_cosine_of_stored_vectors(tiny):
    tiny.commit()
    vectors = {row: np.array([1, row, 0, -0.5]) for row in (0, 1, 3, 4)}
    expected = sorted(
        (-float(vectors[1] @ v / np.linalg.norm(vectors[1]) / np.linalg.norm(v)), row)
        for row, v in vectors.items()
        if row != 1
    )
    found = ask(tiny, f"from similar_to('{key(1)}')")
    assert [row["sample_key"] for row in found] == [key(row) for _, row in expected]
    assert [row["cosine"] for row in found] == pytest.approx([-cosine for cosine, _ in expected], abs=1e-6)
    assert [row["rank"] for row in found] == [1, 2, 3] and found[0]["image_url"] == url(expected[0][1])
    assert found[0]["caption"] == f"new caption {expected[0][1]}"
    assert ask(tiny, f"from similar_to(sample_key := '{key(1)}', k := 2)") == found[:2]
    assert ask(tiny, "from similar_to('nobody')") == []


@pytest.mark.parametrize("dim", [3, 17, 1024])
def test_any_dimension(tiny, dim):
    generator = np.random.default_rng(dim)
    vectors = {row: generator.standard_normal(dim).astype(np.float16).tolist() for row in (0, 1, 3)}
    del tiny.entries[f"embed/{ENCODER}/{BATCH}/{SHARDS[1]}"]
    embed(tiny, vectors, dim=dim)
    tiny.commit()
    asked = generator.standard_normal(dim)
    cosines = {
        key(row): float(asked @ v / np.linalg.norm(asked) / np.linalg.norm(v))
        for row, v in ((row, np.array(v)) for row, v in vectors.items())
    }
    found = ask(tiny, "from nearest_to($vector::float[], k := 5)", vector=asked.tolist())
    assert [row["sample_key"] for row in found] == sorted(cosines, key=cosines.get, reverse=True)
    assert [row["cosine"] for row in found] == pytest.approx(sorted(cosines.values(), reverse=True), abs=1e-4)


def test_vectors_without_a_direction_are_near_to_nothing(tiny):
    embed(tiny, {0: [0, 0, 0, 0], 1: [1, 0, 0, 0], 3: [float("nan"), 1, 0, 0]})
    tiny.commit()
    assert [row["sample_key"] for row in ask(tiny, "from nearest_to([1, 0, 0, 0])")] == [key(1), key(4)]
    assert ask(tiny, "from nearest_to([0, 0, 0, 0])") == [] == ask(tiny, "from nearest_to(null)")
    assert ask(tiny, "from nearest_to([1, 0])") == [], "a vector of another encoder"


def test_vectors_of_two_encoders_are_not_mixed(tiny):
    other = "other@0123456789ab"
    embed(tiny, {0: [0, 0, 0, 1], 1: [0, 0, 1, 0]}, encoder=other)
    tiny.promotions = [Promotion(model_id=OLD, reason="first", created_at=START)]
    tiny.commit()
    assert [row["encoder_id"] for row in ask(tiny, "from encoders where is_production")] == [ENCODER]
    assert {row["encoder_id"] for row in ask(tiny, "from nearest_to([1, 0, 0, 0])")} == {ENCODER}
    assert [row["sample_key"] for row in ask(tiny, f"from nearest_to([0, 0, 1, 1e-3], encoder := '{other}')")] == [
        key(1), key(0),
    ]  # fmt: skip
    assert ask(tiny, f"select chosen_encoder('') as production, chosen_encoder('{other}') as asked") == [
        {"production": ENCODER, "asked": other}
    ]


def test_without_production_the_encoder_that_embedded_last(tiny):
    embed(tiny, {0: [0, 0, 0, 1]}, encoder="other@0123456789ab")
    tiny.commit()
    assert ask(tiny, "select chosen_encoder('') as encoder") == [{"encoder": "other@0123456789ab"}]


def test_nearest_to_a_text_that_was_embedded(tiny):
    rows = [{"sample_key": key(0), "caption_number": 0, "caption": "A dog.",
             "clip_embedding": np.array([1, 4, 0, -0.5], np.float16)}]  # fmt: skip
    path = tiny.lake.text_embeddings(ENCODER, BATCH, SHARDS[0])
    tiny.entry(
        f"embed_text/{ENCODER}/{BATCH}/{SHARDS[0]}", {"text_embeddings": tiny.table(path, TEXTS, rows)}, {},
        batch_id=BATCH, shard_id=SHARDS[0], encoder_id=ENCODER,
    )  # fmt: skip
    tiny.commit()
    assert [row["sample_key"] for row in ask(tiny, "from nearest_to_text('a dog.', 1)")] == [key(4)]
    assert ask(tiny, "from nearest_to_text('a cat.')") == []


def test_caption_changes_tells_how_much(tiny):
    captions = {OLD: ["a red dog", "a cat", "Same words!", "x"], NEW: ["a red dog", "a dog", "same words", "y z"]}
    for model, texts in captions.items():
        for position, shard in enumerate(SHARDS):
            for row in tiny.rows(f"captions/{model}/{RUN}/{shard}"):
                number = [0, 1, 3, 4].index(int(row["sample_key"][-1]))
                row["caption"] = texts[number]
                row["clip_score"] = 0.5 + 0.25 * number * (model == NEW)
                assert row["sample_key"] in {key(n) for n in CAPTIONED[position]}
    tiny.commit()
    found = ask(tiny, f"from caption_changes('{OLD}', '{NEW}')")
    assert [(row["sample_key"], row["change"]) for row in found] == [(key(4), 1.0), (key(1), 0.6667), (key(3), 0.0)]
    assert (found[1]["caption_a"], found[1]["caption_b"]) == ("a cat", "a dog")
    assert [row["clip_score_difference"] for row in found] == [0.75, 0.25, 0.5]
    assert ask(tiny, f"from caption_changes('{NEW}', '{NEW}')") == []


def test_worst_by_a_metric(tiny):
    tiny.commit()
    found = ask(tiny, "from worst_by('cider')")
    assert [(row["rank"], row["sample_key"], row["value"]) for row in found] == [(1, key(1), 0.5), (2, key(0), 1.0)]
    assert found[0]["caption"] == "new caption 1" and found[0]["reference_captions"][0] == "Reference one of 1."
    assert len(ask(tiny, "from worst_by('cider', 1)")) == 1
    assert ask(tiny, f"from worst_by('cider', model := '{OLD}')")[0]["caption"] == "old caption 1"
    assert ask(tiny, "from worst_by('no_metric')") == []


def test_worst_by_takes_the_newest_evaluation(tiny):
    rows = tiny.rows(f"metrics/{NEW}/{RUN}/per_image")
    rows += [{**row, "run_id": "20260102T000000Z-bbbbbb", "value": 7.0} for row in rows[:1]]
    tiny.commit()
    assert [(row["sample_key"], row["value"]) for row in ask(tiny, "from worst_by('cider')")] == [(key(0), 7.0)]


def test_worst_by_clip_score(tiny):
    for shard, scores in zip(SHARDS, [[0.9, 0.1, None], [0.5]], strict=True):
        for row, score in zip(tiny.rows(f"captions/{NEW}/{RUN}/{shard}"), scores, strict=True):
            row["clip_score"] = score
    tiny.commit()
    found = ask(tiny, "from worst_by_clip_score(2)")
    assert [(row["rank"], row["sample_key"], row["clip_score"]) for row in found] == [
        (1, key(1), 0.1),
        (2, key(4), 0.5),
    ]
    assert ask(tiny, f"from worst_by_clip_score(model := '{OLD}')") == []


@pytest.mark.parametrize("promoted, expected", [(OLD, OLD), ("", NEW)])
def test_no_model_means_the_one_in_production_else_the_newest(tiny, promoted, expected):
    tiny.promotions = [Promotion(model_id=promoted, reason="", created_at=START)] if promoted else []
    tiny.commit()
    assert ask(tiny, "select chosen_model('') as model") == [{"model": expected}]
    assert {row["model_id"] for row in ask(tiny, "from worst_by('cider')")} == {expected}


def test_word_frequencies_beside_the_references(tiny):
    path = f"captions/{NEW}/{RUN}/{SHARDS[0]}.parquet"
    rows = tiny.tables[path][1]
    for row, caption in zip(rows, ["A dog, a dog!", "a reference", "it's 2 dogs"], strict=True):
        row["caption"] = caption
    del tiny.entries[f"caption/{NEW}/{SHARDS[1]}"]
    tiny.commit()
    found = {row["word"]: row for row in ask(tiny, "from word_frequencies()")}
    assert {word: (row["uses"], row["captions"]) for word, row in found.items()} == {
        "a": (3, 2), "dog": (2, 1), "dogs": (1, 1), "2": (1, 1), "it": (1, 1), "s": (1, 1), "reference": (1, 1),
    }  # fmt: skip
    assert found["a"]["share"] == pytest.approx(2 / 3) and found["a"]["reference_share"] == 0
    assert found["reference"]["reference_share"] == 1, "each of the six references of those images has it"
    assert list(found)[:2] == ["a", "dog"]


class TestCaptionsAsOf:
    """Run 1 captions both shards; run 2 captions the second shard again, by the same model."""

    SECOND = "20260102T000000Z-bbbbbb"

    @pytest.fixture
    def two_runs(self, tiny):
        del tiny.entries[f"train/{OLD}"], tiny.entries[f"evaluate/{OLD}"]
        for name in [name for name in tiny.entries if f"caption/{OLD}" in name]:
            del tiny.entries[name]
        tiny.commit()
        later = START + timedelta(days=1)
        rows = [{**row, "run_id": self.SECOND, "caption": "another caption"}
                for row in tiny.rows(f"captions/{NEW}/{RUN}/{SHARDS[1]}")]  # fmt: skip
        old = tiny.entries[f"caption/{NEW}/{SHARDS[1]}"]
        path = tiny.table(tiny.lake.captions(NEW, self.SECOND, SHARDS[1]), CAPTIONS, rows)
        old.update(
            key="1" * 64, run_id=self.SECOND, created_at=later, files={**old["files"], "captions": path},
            meta={**old["meta"], "run_id": self.SECOND},
        )  # fmt: skip
        entries = tiny.generation().entries
        run = Run(run_id=self.SECOND, flow="caption-nightly", started_at=later, finished_at=later + timedelta(hours=1),
                  entries=list(entries))  # fmt: skip
        commit_generation(tiny.lake, entries.values(), run)
        return tiny

    def test_now(self, two_runs):
        found = ask(two_runs, f"from captions_as_of('{self.SECOND}') order by sample_key")
        assert [row["caption"] for row in found] == [*(f"new caption {n}" for n in (0, 1, 3)), "another caption"]
        assert [row["run_id"] for row in found] == [RUN] * 3 + [self.SECOND]
        assert {row["replaced_by_run"] for row in found} == {None}

    def test_then(self, two_runs):
        found = ask(two_runs, f"from captions_as_of('{RUN}') order by sample_key")
        assert [row["caption"] for row in found] == [*(f"new caption {n}" for n in (0, 1, 3)), None]
        assert [row["replaced_by_run"] for row in found] == [None] * 3 + [self.SECOND]

    def test_the_generation_of_that_run_has_it_all(self, two_runs):
        statement = f"select caption from captions where model_id = '{NEW}' order by sample_key"
        then = query(two_runs.lake, statement, as_of=RUN)["caption"].to_pylist()
        assert then == [f"new caption {n}" for n in (0, 1, 3, 4)]
        assert query(two_runs.lake, statement)["caption"].to_pylist()[-1] == "another caption"

    def test_a_run_that_nobody_knows(self, two_runs):
        assert ask(two_runs, "from captions_as_of('nobody')") == []


def test_metrics_diff_counts_wins_ties_and_losses(tiny):
    each = {OLD: {0: 1.0, 1: 0.5, 3: 0.5}, NEW: {0: 1.0, 1: 0.75, 3: 0.25, 4: 9.0}}
    for model, values in each.items():
        rows = tiny.rows(f"metrics/{model}/{RUN}/per_image")
        rows[:] = [{**rows[0], "sample_key": key(row), "value": value} for row, value in values.items()]
    tiny.commit()
    found = {row["metric"]: row for row in ask(tiny, f"from metrics_diff('{NEW}', '{OLD}')")}
    cider = {"split": "test", "metric": "cider", "candidate_value": 0.75, "baseline_value": 0.5, "difference": 0.25}
    assert found["cider"] == {**cider, "images": 3, "wins": 1, "ties": 1, "losses": 1}, "an image of one model is none"
    assert (found["bleu_1"]["difference"], found["bleu_1"]["wins"], found["bleu_1"]["images"]) == (0.0, None, 2)
    back = {row["metric"]: row for row in ask(tiny, f"from metrics_diff('{OLD}', '{NEW}')")}
    assert back["cider"]["difference"] == -0.25
    assert ask(tiny, f"from metrics_diff('{OLD}', 'nobody')") == []


def test_refused_groups_reasons(tiny):
    tiny.rows(f"ledger/land/{BATCH}")[6].update(reason="same URL as 93a7cfcd-0001017, row 17")
    tiny.commit()
    found = ask(tiny, "from refused()")
    assert {(row["stage"], row["status"], row["reason"], row["images"]) for row in found} == {
        ("land", "duplicate", "same URL as KEY, row N", 1), ("land", "failed", "no URL", 1),
        ("download", "failed", "HTTP 404", 1), ("embed", "failed", "cannot be decoded", 1),
    }  # fmt: skip
    assert next(row for row in found if row["status"] == "duplicate")["example_reason"].endswith("row 17")
    assert ask(tiny, "from refused('another batch')") == [] and len(ask(tiny, f"from refused('{BATCH}')")) == 4


def test_story_of_an_image(tiny):
    tiny.commit()
    found = ask(tiny, f"from story_of('{key(0)}')")
    assert [(row["stage"], row["by_what"], row["caption"]) for row in found] == [
        ("land", None, None), ("download", None, None), ("embed", ENCODER, None),
        ("caption", OLD, "old caption 0"), ("caption", NEW, "new caption 0"),
    ]  # fmt: skip
    assert [(row["stage"], row["reason"]) for row in ask(tiny, f"from story_of('{key(5)}')")] == [
        ("land", ""), ("download", "HTTP 404"),
    ]  # fmt: skip


def test_encoders_counts_images(tiny):
    tiny.commit()
    [encoder] = ask(tiny, "from encoders")
    assert (encoder["encoder_id"], encoder["encoder"], encoder["images"], encoder["clip_dim"]) == (ENCODER, "toy", 4, 4)
    assert ENCODER_HASH.startswith(ENCODER.partition("@")[2]) and not encoder["is_production"]


def test_macros_are_listed_with_what_they_take(tiny):
    tiny.commit()
    macros = {macro.name: macro for macro in list_macros(tiny.lake)}
    assert macros["similar_to"].signature == "similar_to(sample_key, k := 10, encoder := '')"
    assert macros["similar_to"].parameters == ["sample_key", "k", "encoder"] and macros["similar_to"].is_table
    assert not macros["chosen_model"].is_table and "lake_files" not in macros
    columns = {name: set(re.findall(r"\w+", macro.comment)) for name, macro in macros.items() if macro.is_table}
    assert all("One" in words and "row" in words for words in columns.values())


@pytest.mark.parametrize(
    "statement, hint",
    [
        ("select capton from captions", "did you mean caption, of captions"),
        ("select c.capton from captions c", "did you mean caption"),
        ("select width from captions", "width is a column of images"),
        ("from capitons", "did you mean captions?"),
        ("from simlar_to('a')", "did you mean similar_to?"),
        ("from similar_to", r"similar_to is a macro: from similar_to\(…\)"),
        ("from captions()", "captions is a view, without brackets"),
        ("from similar_to()", r"similar_to\(sample_key, k := 10, encoder := ''\)"),
        ("select zzzz from captions", "clipcap sql --list"),
        ("select caption, count(*) from captions", "GROUP BY"),
    ],
)
def test_a_wrong_name_gets_a_hint(tiny, statement, hint):
    tiny.commit()
    with pytest.raises(WarehouseError, match=hint) as raised:
        query(tiny.lake, statement)
    assert "\n" not in str(raised.value)
