"""When a new model is trained, and when it may replace the one in production."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clipcap.config.base import Name, Positive, Section, Share


class GateConfig(Section):
    """A candidate is promoted only if it is better on the primary metric and hardly worse on any other."""

    primary: str = "cider"
    """The metric that has to rise: the whole paired interval of the difference lies above min_gain."""
    min_gain: Annotated[float, Field(ge=0)] = 0.0
    """In units of the primary metric."""
    guards: list[str] = ["bleu_4", "rouge_l"]
    """Metrics that must not fall by more than the margin; those that were not computed are refused."""
    margin: Share = 0.02
    """Largest allowed loss of a guard, as a share of production's value: the paired interval lies above it."""
    evaluation_set: Name = "default"
    """The frozen images that candidate and production are scored on; made of evaluate.split when first needed."""
    min_images: Positive = 100
    """Smallest evaluation set: with fewer images nothing is judged, and so nothing is promoted."""


class RetrainConfig(Section):
    min_new_pairs: Positive = 1000
    """Captions of images that neither production nor a refused candidate has learned from, after which one trains."""
    drift_threshold: Share = 0.2
    """Drift of the new embeddings from those trained on (docs/retraining.md) at which one trains; 0 is off."""
    start: Literal["fresh", "warm"] = "fresh"
    """A new model, or one that goes on from production's weights."""
    recaption: bool = False
    """After a promotion, caption earlier batches with the new model at once, instead of in the next night."""
