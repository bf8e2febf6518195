"""A device without room, and values that are no numbers.

What does not fit is halved and goes on, with the results of an undisturbed run. What is not finite is named (the shard
and the image, the step) and stored nowhere, not even in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from warm import Fault, Outcome, Warm, published, recorded

from clipcap.batches import Batches, is_out_of_memory
from clipcap.config import CaptionConfig, LanguageModelConfig, TrainConfig
from clipcap.decoding.caption_shard import caption_shard
from clipcap.errors import ModelError
from clipcap.model.captioner import Captioner
from clipcap.model.checkpoint import load_captioner
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current
from clipcap.training.examples import Pairs
from clipcap.training.train import train

ON_A_GPU = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
ON_A_CPU = RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4e12 bytes")
FULL = [ON_A_GPU, ON_A_CPU, MemoryError("Unable to allocate 3 TiB for an array")]


@pytest.mark.parametrize("error", FULL, ids=["gpu", "cpu", "numpy"])
def test_a_batch_is_halved_until_it_fits_and_stays_so(error: Exception):
    seen = []

    def compute(rows: slice) -> list[int]:
        seen.append(rows.stop - rows.start)
        if seen[-1] > 3:
            raise error
        return list(range(rows.start, rows.stop))

    fitting = Batches(16, "embedding", "embed.batch_size")
    assert [row for part in fitting.map(compute, 20) for row in part] == list(range(20))
    assert seen[:4] == [16, 8, 4, 2] and set(seen[3:]) == {2} and fitting.size == 2
    seen.clear()
    assert [row for part in fitting.map(compute, 5) for row in part] == list(range(5)) and seen == [2, 2, 1]


def test_a_single_row_that_does_not_fit_is_an_error_that_says_what_to_do():
    def compute(rows: slice) -> None:
        raise ON_A_GPU

    with pytest.raises(ModelError, match=r"captioning: the device has no room for a single row \(CUDA out of memory.*"
                                         r"use another device"):  # fmt: skip
        list(Batches(4, "captioning", "caption.batch_size").map(compute, 9))


def test_other_errors_are_not_taken_for_it():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

    def compute(rows: slice) -> None:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Batches(4, "captioning", "caption.batch_size").map(compute, 9))


def test_the_allocator_of_this_machine_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_run_on_a_small_device_publishes_the_same(warm: Warm, calm: Any, tmp_path: Path):
    """Embedding, captioning, captions' vectors, validation and the control, on a device that holds three images."""
    small = warm.run(tmp_path / "lake", calm.config, Fault(fits=3))
    assert small.status == 0, small.message
    assert small.refused >= 3 * 2, "each shard of both stages had to be cut"
    now = published(tmp_path / "lake")
    for name in ("ledger", "ledger_history", "images", "metrics", "models"):
        assert now[name] == calm.published[name], name
    assert [row[:3] for row in now["captions"]] == [row[:3] for row in calm.published["captions"]]
    for (key, sha, vector), (same, hash, expected) in zip(now["embeddings"], calm.published["embeddings"], strict=True):
        assert (key, sha) == (same, hash)
        assert np.allclose(vector, expected, atol=2e-3)


CONFIG = TrainConfig(
    prefix_length=2, mapper_hidden=16, epochs=4, batch_size=6, learning_rate=1e-2, warmup_steps=2,
    checkpoint_every_s=0.0,
    language_model=LanguageModelConfig(name="scratch", layers=1, heads=2, hidden_size=16, vocab_size=300, dropout=0.0),
)  # fmt: skip
TASK = Pairs(
    np.random.default_rng(0).normal(size=(12, 8)).astype(np.float16), [[f"a picture of {n} things"] for n in range(12)]
)


def trained(folder: Path, resume: Path | None = None) -> dict[str, torch.Tensor]:
    train(TASK, TASK, CONFIG, folder, model_id="toy-mlp-00000000", encoder="toy", encoder_hash="abc",
          resume_folder=resume)  # fmt: skip
    return {name: tensor.detach() for name, tensor in load_captioner(folder).named_parameters()}


def with_loss(monkeypatch: pytest.MonkeyPatch, change: Callable[[Captioner, torch.Tensor, torch.Tensor], torch.Tensor]):
    real = Captioner.loss

    def loss(self: Captioner, embeddings: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        return change(self, embeddings, real(self, embeddings, *given, **named))

    monkeypatch.setattr(Captioner, "loss", loss)


def test_training_on_a_small_device_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = trained(tmp_path / "calm")
    refused = []

    def small(captioner: Captioner, embeddings: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        if len(embeddings) > 2:
            refused.append((captioner.training, len(embeddings)))
            raise ON_A_CPU
        return loss

    with_loss(monkeypatch, small)
    found = trained(tmp_path / "small")
    assert {True, False} == {is_training for is_training, _ in refused}, "steps and validation"
    assert [rows for is_training, rows in refused if is_training] == [6, 3], "once, and then it fits"
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in expected)


def test_training_that_fits_nowhere_says_at_which_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def never(captioner: Captioner, embeddings: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        raise ON_A_GPU

    with_loss(monkeypatch, never)
    with pytest.raises(ModelError, match="no room for a single row at step 1 "):
        trained(tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_named_and_no_checkpoint_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
):
    expected = trained(tmp_path / "calm")
    steps = []

    def broken(captioner: Captioner, embeddings: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        steps.append(1)
        return loss * value if captioner.training and len(steps) == 5 else loss

    with monkeypatch.context() as patch:
        with_loss(patch, broken)
        with pytest.raises(ModelError, match=r"the loss is not finite at step \d of 8, nothing was stored"):
            trained(tmp_path / "model", tmp_path / "unfinished")
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "unfinished" / "last.pt").exists(), "the steps before stand"
    again = trained(tmp_path / "model", tmp_path / "unfinished")
    assert all(torch.equal(again[name], expected[name]) for name in expected), "it went on from before the fault"


def test_an_embedding_that_is_no_number_is_named_and_stored_nowhere(
    warm: Warm, calm: Any, tmp_path: Path, runs_on: Callable[..., Outcome]
):
    lake = tmp_path / "lake"
    failed = warm.run(lake, calm.config, Fault(broken_image=15))
    assert (failed.status, failed.error) == (1, "EmbeddingError")
    shards = sorted(id.rpartition("/")[2] for id in calm.outcome.made if id.startswith("embed/"))
    keys = [row[0] for row in calm.published["embeddings"] if row[0] in failed.message]
    assert f"shard {shards[1]}: 1 embedding(s) are not finite" in failed.message and len(keys) == 1
    embedded = [id.rpartition("/")[2] for id in recorded(lake) if id.startswith("embed/")]
    assert sorted(embedded) == [shards[0], shards[2]], "the others stand"
    assert not list((lake / "embeddings").rglob(f"{shards[1]}.parquet"))
    runs_on(lake)
    assert published(lake) == calm.published


def test_a_model_that_gives_no_numbers_captions_nothing(lake: Path, calm: Any):
    root = Lake(lake)
    embed, *_ = read_current(root).of_stage("embed")
    [model] = read_current(root).of_stage("train")
    captioner = load_captioner(root.model(model.meta["model_id"]))
    with torch.no_grad():
        next(captioner.mapper.parameters()).fill_(float("nan"))
    before = {path for path in lake.rglob("*") if path.is_file()}
    where = f"shard {embed.meta['shard_id']}, model {model.meta['model_id']}: "
    with pytest.raises(ModelError, match=rf"{where}the language model gave NaN at token 1: .*; nothing was stored"):
        caption_shard(root, embed, captioner, CaptionConfig(beam_size=2, max_new_tokens=4), "key", "run")
    assert {path for path in lake.rglob("*") if path.is_file()} == before
