"""From embeddings and captions to a model."""

from clipcap.training.examples import Pairs, TrainingExamples
from clipcap.training.progress import Progress
from clipcap.training.train import TrainingResult, train

__all__ = ["Pairs", "Progress", "TrainingExamples", "TrainingResult", "train"]
