"""Trains a captioner and writes it: from pairs and a configuration to a model folder (paper, section 4)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from clipcap.config import TrainConfig
from clipcap.errors import ConfigError, DataError, EmbeddingError
from clipcap.model.build import build_captioner
from clipcap.model.captioner import Captioner
from clipcap.model.checkpoint import save_captioner
from clipcap.storage.entries import digest
from clipcap.training.checkpoints import Checkpoints
from clipcap.training.examples import Pairs, TrainingExamples
from clipcap.training.loop import TrainingLoop
from clipcap.training.phases import FromCaptions, FromReward, Phase
from clipcap.training.processes import Processes
from clipcap.training.progress import Progress
from clipcap.training.standardize import standardized
from clipcap.training.validation import CaptionScore, mean_loss
from clipcap.training.warm_start import go_on_from

log = logging.getLogger("clipcap.train")


@dataclass(frozen=True)
class TrainingResult:
    """What metrics.json holds."""

    best_loss: float
    best_loss_of: str
    """"val", or "train" where there was nothing to validate on."""
    best_cider: float | None
    """Of train.val_captions greedily captioned val images, where that was asked for."""
    best_phase: str
    best_epoch: int
    best_step: int
    epochs: int
    steps: int
    """Taken, in all phases."""
    captions: int
    images: int
    parameters: int
    trained_parameters: int
    samples_per_s: float
    duration_s: float
    """Spent in steps, earlier starts of a resumed training included."""


def train(
    train_pairs: Pairs,
    val_pairs: Pairs,
    config: TrainConfig,
    folder: Path,
    *,
    model_id: str,
    encoder: str,
    encoder_hash: str,
    features: str = "embedding",
    device: str = "cpu",
    processes: Processes | None = None,
    resume_folder: Path | None = None,
    on_step: Callable[[Progress], None] | None = None,
    start_folder: Path | None = None,
) -> TrainingResult:
    """Trains and writes config.json, mapping.safetensors, lm/ or lora/ (if it learned), training.jsonl, metrics.json.

    Nothing is written to ``folder`` before training has ended well. The same seed gives the same weights on a CPU with
    the same number of threads, also for a training that was killed and resumed. The caller's random state is left as
    it was.

    Args:
        train_pairs: learned from.
        val_pairs: decides which weights are kept; may be empty, then the training loss does.
        config: the section [train].
        folder: of the model; made if missing. Of several processes rank 0 alone writes it.
        model_id: stored with the model, as are ``encoder``, ``encoder_hash`` and ``features``.
        encoder: name of the encoder of both embeddings.
        encoder_hash: of its weights.
        features: what of the encoder the embeddings are.
        device: "cpu", "cuda" …; not used where ``processes`` are given.
        processes: those that train together.
        resume_folder: holds the checkpoints of this training alone; the caller removes it once the model is where it
            belongs. None keeps none.
        on_step: called about 200 times, and at each validation.
        start_folder: of a model whose weights are the first ones (a warm start); None begins with random ones.

    Raises:
        ConfigError: settings that contradict each other or the data.
        DataError: no captions to learn from.
        EmbeddingError: embeddings that are not finite, or of two dimensions.
        ModelError: the language model cannot be had, sizes or the model to start from do not fit, or the loss is not
            finite.
    """
    processes = processes or Processes(device)
    _check(train_pairs, val_pairs, config)
    shape = train_pairs.embeddings.shape
    with _seeded(config.seed, processes.device):
        clip_tokens = shape[1] if len(shape) == 3 else 0
        names = {"features": features, "model_id": model_id, "encoder": encoder, "encoder_hash": encoder_hash}
        if start_folder is None:
            captioner = build_captioner(config, train_pairs.texts, shape[-1], clip_tokens=clip_tokens, **names)
        else:
            captioner = go_on_from(start_folder, config, shape[-1], clip_tokens=clip_tokens, **names)
        captioner.to(processes.device)
        if processes.rank:
            torch.manual_seed(config.seed + 1_000_003 * processes.rank)  # dropout and noise of its own
        tokenise = partial(
            TrainingExamples.from_pairs,
            tokenizer=captioner.tokenizer,
            eos_id=captioner.settings.eos_id,
            max_tokens=config.max_tokens,
            device=processes.device,
        )
        examples = tokenise(train_pairs)
        val = tokenise(val_pairs, where="validation") if val_pairs else None
        phases: list[Phase] = [FromCaptions(captioner, config, processes, examples)]
        if config.self_critical.epochs:
            phases.append(FromReward(captioner, config, processes, examples, train_pairs))
        key = digest([config.model_dump(), model_id, encoder_hash, len(examples), int(examples.lengths.sum())])
        checkpoints = Checkpoints(resume_folder, key)
        validate = _validation(captioner, val, val_pairs, config)
        run = TrainingLoop(captioner, phases, config, processes, checkpoints, validate, on_step)
        is_warm = start_folder is not None
        with standardized(captioner, examples.embeddings, is_warm) if config.standardize else nullcontext():
            best = run.run()

    result = TrainingResult(
        best_loss=run.log_of(best).loss if best.val_loss is None else best.val_loss,
        best_loss_of="train" if best.val_loss is None else "val",
        best_cider=best.val_cider,
        best_phase=best.phase,
        best_epoch=best.epoch,
        best_step=best.step,
        epochs=config.epochs,
        steps=run.taken,
        captions=len(examples),
        images=len(train_pairs.captions),
        parameters=sum(p.numel() for p in captioner.parameters()),
        trained_parameters=sum(p.numel() for p in captioner.parameters() if p.requires_grad),
        samples_per_s=round(run.samples / max(run.seconds, 1e-9), 1),
        duration_s=round(run.seconds, 2),
    )
    if processes.rank == 0:
        save_captioner(captioner, folder)
        lines = "".join(json.dumps(asdict(line)) + "\n" for line in run.log)
        (folder / "training.jsonl").write_text(lines, encoding="utf-8")
        (folder / "metrics.json").write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return result


def _check(train_pairs: Pairs, val_pairs: Pairs, config: TrainConfig) -> None:
    if not train_pairs:
        raise DataError(f"nothing to train on: {len(train_pairs.captions)} training images with no caption among them")
    if len(val_pairs.captions) and val_pairs.embeddings.shape[1:] != train_pairs.embeddings.shape[1:]:
        raise EmbeddingError(
            f"training embeddings have shape {train_pairs.embeddings.shape}, validation embeddings "
            f"{val_pairs.embeddings.shape}: embed both with the same encoder"
        )
    if config.select == "cider" and not val_pairs:
        raise ConfigError(
            'train.select = "cider" needs captioned images of split val, and there are none: give some, '
            'or set train.select = "loss"'
        )


def _validation(
    captioner: Captioner, val: TrainingExamples | None, pairs: Pairs, config: TrainConfig
) -> Callable[[], tuple[float | None, float | None]]:
    score = CaptionScore(pairs, config.val_captions, config.max_tokens) if val and config.val_captions else None

    def validate() -> tuple[float | None, float | None]:
        loss = mean_loss(captioner, val, 4 * config.batch_size) if val else None
        return loss, score(captioner) if score else None

    return validate


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch for the block and gives the caller's random state back after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
