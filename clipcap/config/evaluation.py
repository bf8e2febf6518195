"""How models are scored, and what a report shows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clipcap.config.base import Section


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
    images: Annotated[int, Field(ge=0)] = 60
    """Images in the contact sheet."""
    seed: int = 0
    """Chooses them."""
