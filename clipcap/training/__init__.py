"""From embeddings and captions to a model."""

from clipcap.training.examples import Pairs, TrainingExamples
from clipcap.training.train import Progress, TrainingResult, train

__all__ = ["Pairs", "Progress", "TrainingExamples", "TrainingResult", "train"]
