"""What decides which weights are the best: the loss on val, and CIDEr of greedy captions where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from clipcap.batches import Batches
from clipcap.config import CaptionConfig
from clipcap.metrics.coco import ngram_metrics
from clipcap.metrics.ptb_tokenizer import tokenize
from clipcap.model.captioner import Captioner
from clipcap.model.precision import reduced_dtype
from clipcap.training.examples import Pairs, TrainingExamples


@torch.inference_mode()
def mean_loss(captioner: Captioner, examples: TrainingExamples, batch_size: int) -> float:
    """Nats per token over all captions, in eval mode, without smoothing or noise."""
    was_training = captioner.training
    captioner.eval()
    total = torch.zeros((), device=examples.device, dtype=torch.float64)
    fitting = Batches(batch_size, "validation", "train.batch_size")

    def summed(rows: Tensor, part: slice) -> Tensor:
        batch = examples.batch(rows[part])
        return captioner.loss(batch.embeddings, batch.tokens, reduction="sum")

    for rows in examples.plan(batch_size):
        total += sum(fitting.map(partial(summed, rows), len(rows)))
    captioner.train(was_training)
    return float(total) / int(examples.lengths.sum())


class CaptionScore:
    """CIDEr-D of greedy captions of the first ``images`` validation images that have references.

    A monitor: document frequencies come from these images, so it compares models with each other, not with papers.
    """

    def __init__(self, pairs: Pairs, images: int, max_tokens: int) -> None:
        rows = [row for row, captions in enumerate(pairs.captions) if any(t.strip() for t in captions)][:images]
        self.embeddings = torch.as_tensor(pairs.embeddings[rows])
        self.references = _tokenized([pairs.captions[row] for row in rows])
        self.decoding = CaptionConfig(beam_size=1, max_new_tokens=max_tokens, precision="float32")

    def __call__(self, captioner: Captioner) -> float:
        from clipcap.decoding.caption import generate

        texts = tokenize([caption.text for caption in generate(captioner, self.embeddings, self.decoding)])
        candidates = {str(row): text for row, text in enumerate(texts)}
        return ngram_metrics(candidates, self.references, bleu=False)["cider"][0]


def _tokenized(captions: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    texts = iter(tokenize([text for image in captions for text in image]))
    return {str(row): [next(texts) for _ in image] for row, image in enumerate(captions)}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass: bfloat16 where "auto" finds a GPU that has it, else what is asked for.

    One for each step: autocast keeps cast weights until it ends, and a step changes the weights.
    """
    dtype = reduced_dtype(device, precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def is_finite(tensors: Sequence[Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors)
