"""Whether a model is due: pairs are counted once, by what has learned from them."""

from __future__ import annotations

from datetime import timedelta

from tiny_lake import BATCH, NEW, OLD

from clipcap.config import RetrainConfig
from clipcap.dataset.evaluation_set import lake_shards
from clipcap.storage.manifest import EntryIndex, commit_generation, read_current
from clipcap.storage.records import Decision
from clipcap.training.due import count_landed, is_due
from clipcap.training.registry import promote


def test_new_pairs_are_counted_where_nothing_has_learned_from_them(tiny):
    tiny.commit()
    promote(tiny.lake, OLD, "first")
    generation = read_current(tiny.lake)
    shards = lake_shards(EntryIndex(tiny.lake))
    production = generation.entries[f"train/{OLD}"]
    config = RetrainConfig(min_new_pairs=2, drift_threshold=0.0)
    assert count_landed(tiny.lake, BATCH) == 6  # rows 3, 5 and 6, two captions each; 5 and 6 will fail

    known = is_due(tiny.lake, generation, production, shards, config)
    assert (known.is_due, known.new_pairs, known.reason) == (False, 0, "0 new pairs < 2")

    unlearned = production.model_copy(update={"meta": {**production.meta, "batch_ids": []}})
    found = is_due(tiny.lake, generation, unlearned, shards, config)
    assert (found.is_due, found.new_pairs, found.new_images) == (True, 2, 1) and found.batch_ids == (BATCH,)
    assert found.reason == "2 new pairs ≥ 2"
    assert not is_due(tiny.lake, generation, unlearned, shards, config.model_copy(update={"min_new_pairs": 3})).is_due
    assert is_due(tiny.lake, generation, None, shards, config).new_pairs == 2, "with no model all is new"

    refused = Decision(
        decided_at=tiny.now + timedelta(1), run_id="r", candidate_model_id=NEW, production_model_id=OLD,
        verdict="refused", reason="worse", evidence={"batch_ids": [BATCH]},
    )  # fmt: skip
    after = commit_generation(tiny.lake, decision=refused)
    tried = is_due(tiny.lake, after, unlearned, shards, config)
    assert (tried.is_due, tried.new_pairs, tried.waiting_pairs) == (False, 0, 2)
    assert "2 more were learned from by a candidate that was refused" in tried.reason
    elsewhere = refused.model_copy(update={"production_model_id": "another"})
    other = generation.model_copy(update={"decisions": [elsewhere]})
    assert is_due(tiny.lake, other, unlearned, shards, config).is_due, "refused for another model's sake"
