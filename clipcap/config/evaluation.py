"""How models are scored, and what a report shows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clipcap.config.base import Positive, Section, Share


class EvaluateConfig(Section):
    split: Literal["val", "test"] = "test"
    """Scored split; images there that have no reference are an error."""
    shuffled_control: bool = False
    """Also caption with embeddings exchanged between images: what the language model reaches without looking."""
    clip_score: bool = True
    """Also CLIPScore and RefCLIPScore, with the model's own encoder; left out where that has no text tower."""
    java_metrics: list[Literal["meteor", "spice"]] = []
    """Also METEOR and SPICE, which are Java programs (extra "java-metrics")."""
    resamples: Annotated[int, Field(ge=0)] = 1000
    """Bootstrap resamples of the images, for intervals and differences; 0 computes none."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of intervals."""
    seed: int = 0
    """Of the resamples."""


class ReportConfig(Section):
    images: Annotated[int, Field(ge=0)] = 100
    """Images on the contact sheet: a fifth each of the best, the worst and the most changed, the rest at random."""
    seed: int = 0
    """Of the random sample."""


class ChecksConfig(Section):
    """Limits of the checks that stand before publication (sql/checks); each is a variable that its statement reads."""

    most_words: Positive = 200
    """A caption with more is a runaway: an error."""
    repeated_share: Share = 0.5
    """A warning where one caption is given to more than this share of a model's images."""
    least_spread: Annotated[float, Field(ge=0)] = 0.002
    """A warning where half of a model's CLIPScores lie closer together than this."""
    score_drop: Share = 0.25
    """A warning where a model's mean CLIPScore lies further below production's than this share of it."""
