"""Self-critical training: the model's own captions, made likelier or less likely by their CIDEr-D.

Rennie et al. 2017, with the baseline of Luo 2020 ("A Better Variant of Self-Critical Sequence Training"): the mean
reward of an image's other samples instead of the reward of its greedy caption. No further decoding is needed, and the
baseline of a sample does not depend on that sample.

Legend: B images, K samples of each, P prefix_length, D hidden size, T tokens of the longest sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from clipcap.config import SelfCriticalConfig
from clipcap.decoding.hypotheses import Hypothesis
from clipcap.decoding.sampling import sample
from clipcap.metrics.cider import END, CiderD
from clipcap.metrics.ptb_tokenizer import tokenize
from clipcap.model.captioner import IGNORED, Captioner
from clipcap.model.language_model import last_logits, word_embeddings


class SelfCritical:
    """What a step of self-critical training needs beside the optimizer.

    Args:
        captioner: learns; its frozen parts stay frozen.
        references: for each training image its captions as written; those without text are left out. All of them give
            CIDEr-D its document frequencies.
        config: ``samples`` is read here, the rest by the trainer.
        max_new_tokens: longest sample, end-of-text included; as captions are cut in the training before.
    """

    def __init__(
        self,
        captioner: Captioner,
        references: Sequence[Sequence[str]],
        config: SelfCriticalConfig,
        max_new_tokens: int,
    ) -> None:
        self.captioner, self.samples, self.max_new_tokens = captioner, config.samples, max_new_tokens
        self.scorer = CiderD([[[*_words(text), END] for text in image if text.strip()] for image in references])

    def loss(self, clip_embedding: Tensor, image_rows: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, float]:
        """Samples captions, rewards them, and gives the loss whose gradient is that of the expected reward, negated.

        The sum of advantage * log-probability is divided by the tokens of the whole batch and not of each caption:
        one factor for all, so no length is preferred, and gradients are of the size that cross-entropy per token has.

        Nothing is dropped (eval mode), neither in sampling nor for the gradient: the estimate holds only for the
        log-probabilities of the very distribution that the captions were drawn from. The mode is given back.

        Args:
            clip_embedding: (B, C) or (B, L, C), as :meth:`Captioner.prefix` reads it.
            image_rows: (B) place of each image in the references.
            seeds: (B) decide the samples of each image, whatever stands beside it.

        Returns:
            The loss, a scalar; and the mean reward of the samples, 0 to 10.

        Raises:
            DataError: an image without references.
            ShapeError: embeddings that the captioner does not read.
        """
        was_training = self.captioner.training
        self.captioner.eval()
        try:
            prefix = self.captioner.prefix(clip_embedding)  # (B, P, D), once for all samples of an image
            drawn = self._draw(prefix.detach(), seeds)
            rewards = self.rewards(drawn, [row for row in image_rows for _ in range(self.samples)])
            surprise, count = self._surprise(prefix.repeat_interleave(self.samples, dim=0), drawn)
        finally:
            self.captioner.train(was_training)
        by_image = rewards.view(-1, self.samples)  # (B, K)
        others = (by_image.sum(dim=1, keepdim=True) - by_image) / (self.samples - 1)
        advantage = (by_image - others).flatten().to(surprise)  # (B*K)
        return (advantage * surprise).sum() / count, float(rewards.mean())

    def rewards(self, captions: Sequence[Hypothesis], image_rows: Sequence[int]) -> Tensor:
        """CIDEr-D with the end as a word: a caption that stops where no reference does ("a dog in a") pays for it.

        By words alone it would not: dropping the last words costs nothing in precision, and the models that rewards
        make learn to do so. A caption cut at the greatest length has no end.

        Returns:
            (captions) float64, on the CPU.
        """
        texts = self.captioner.tokenizer.batch_decode([c.tokens for c in captions], skip_special_tokens=True)
        words = [_words(text) + (END,) * caption.is_finished for text, caption in zip(texts, captions, strict=True)]
        return torch.from_numpy(self.scorer.score(words, image_rows))

    @torch.no_grad()
    def _draw(self, prefix: Tensor, seeds: Sequence[int]) -> list[Hypothesis]:
        """K captions of each image, image by image, from the model's whole distribution."""
        drawn = sample(
            self.captioner.language_model, prefix, eos_id=self.captioner.settings.eos_id, num_samples=self.samples,
            max_new_tokens=self.max_new_tokens, seeds=seeds,
        )  # fmt: skip
        return [caption for image in drawn for caption in image]

    def _surprise(self, prefix: Tensor, captions: Sequence[Hypothesis]) -> tuple[Tensor, int]:
        """Negative log-probability (B*K) of each caption after its prefix (B*K, P, D), and the tokens of all."""
        eos = self.captioner.settings.eos_id
        rows = [torch.tensor(c.tokens + [eos] * c.is_finished, device=prefix.device) for c in captions]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)  # (B*K, T)
        model = self.captioner.language_model
        # As in Captioner.loss: the last token is predicted, never read; padding stands after all that is learned.
        words = word_embeddings(model)(tokens[:, :-1].clamp(min=0))  # (B*K, T-1, D)
        inputs = torch.cat([prefix.to(words.dtype), words], dim=1)  # (B*K, P+T-1, D)
        logits, _ = last_logits(model, tokens.shape[1], inputs_embeds=inputs, use_cache=False)
        surprise = F.cross_entropy(
            logits.flatten(0, 1).float(), tokens.flatten(), ignore_index=IGNORED, reduction="none"
        )  # (B*K*T)
        return surprise.view_as(tokens).sum(dim=1), sum(map(len, rows))


@lru_cache(maxsize=1 << 16)
def _words(text: str) -> tuple[str, ...]:
    """Tokens as the evaluation sees them. A model that has learned draws the same captions again and again."""
    return tuple(tokenize([text])[0].split())
