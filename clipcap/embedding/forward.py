"""The image tower's forward pass: what precision it runs in, and results that arrive while the next batch computes.

Legend: B images, C channels of the tower, L patch tokens.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from clipcap.embedding.decode import Preprocessing
from clipcap.embedding.towers import embed_with_patches, pool_patches

_COMPARED = 8  # images of the first batch on which reduced precision is compared with float32


def tower_dtype(device: torch.device, precision: str) -> torch.dtype:
    """What the image tower's weights are held in.

    Args:
        device: where it runs.
        precision: "auto" is bfloat16 where the processor multiplies it (else float16 on a GPU, float32 on a CPU);
            "float32", "bfloat16", "float16" are taken at their word.
    """
    if precision != "auto":
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return torch.float32


class Pending:
    """A batch that was handed to the device."""

    def __init__(self, embedding: torch.Tensor, features: torch.Tensor, started: Any) -> None:
        """Starts the copy back; ``started`` is a time on the CPU and an event on a GPU."""
        self._embedding, self._features = embedding, features
        self._started, self._done = started, None
        if embedding.is_cuda:
            self._embedding = _copied(embedding)
            self._features = self._embedding if features is embedding else _copied(features)
            self._done = torch.cuda.Event(enable_timing=True)
            self._done.record()
        else:
            self._embedding = embedding.cpu()
            self._features = self._embedding if features is embedding else features.cpu()
            self._seconds = time.perf_counter() - started

    def result(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Waits for it: embedding float32 (B, clip_dim), features float32, and the seconds that the device took."""
        if self._done is not None:
            self._done.synchronize()
            self._seconds = self._started.elapsed_time(self._done) / 1000
        embedding = self._embedding.numpy()
        features = embedding if self._features is self._embedding else self._features.numpy()
        return embedding, features, self._seconds


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """Into pinned memory, while the device goes on."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class ForwardPass:
    """An open_clip model's image tower on its device.

    Args:
        model: in eval mode, float32, on ``device``; its ``visual`` is cast where the precision asks for it.
        features: "embedding", "tower" or "tokens".
        token_grid: patches are averaged to that square; 0 keeps them.
        precision: see :func:`tower_dtype`.
        compiles: whether torch.compile makes a program of it (slow to start).
    """

    def __init__(
        self, model: Any, preprocessing: Preprocessing, device: torch.device, *, features: str = "embedding",
        token_grid: int = 0, precision: str = "auto", compiles: bool = False,
    ) -> None:  # fmt: skip
        self._model, self._device, self._features, self._grid = model, device, features, token_grid
        self.dtype = tower_dtype(device, precision)
        self.cosine_to_float32: float | None = None
        """The worst of the first images whose embeddings were computed both ways; None in float32."""
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        self._run = torch.compile(self._embed) if compiles else self._embed
        self._is_ready = False
        self._one_at_a_time = threading.Lock()  # shards that are embedded side by side share the device

    def start(self, pixels: np.ndarray) -> Pending:
        """Hands a batch to the device; on a GPU it returns before the batch is done.

        Args:
            pixels: uint8 (B, height, width, 3).

        Raises:
            ModelError: features of a tower that does not show them.
        """
        images = torch.from_numpy(pixels)
        with self._one_at_a_time, torch.inference_mode():
            is_cuda = self._device.type == "cuda"
            images = images.pin_memory().to(self._device, non_blocking=True) if is_cuda else images.to(self._device)
            if not self._is_ready:
                self._prepare(images)
            started: Any = torch.cuda.Event(enable_timing=True) if is_cuda else time.perf_counter()
            if is_cuda:
                started.record()
            return Pending(*self._run(images), started)

    def _prepare(self, images: torch.Tensor) -> None:
        """Casts the tower, and compares a few images before and after."""
        visual = self._model.visual
        if self._device.type == "cuda":
            visual.to(memory_format=torch.channels_last)
        if self.dtype != torch.float32 and len(images):
            full, _ = self._embed(images[:_COMPARED], torch.float32)
            visual.to(self.dtype)
            reduced, _ = self._embed(images[:_COMPARED], self.dtype)
            self.cosine_to_float32 = F.cosine_similarity(full, reduced).min().item()
        self._is_ready = True

    def _embed(self, images: torch.Tensor, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (B, height, width, 3) → embedding (B, clip_dim) and features, both float32."""
        # Pixels lie channel after channel, so the permuted tensor is channels-last as it stands.
        normal = (images.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        normal = normal.to(dtype or self.dtype)
        if self._features == "embedding":
            embedding = self._model.encode_image(normal).float()
            return embedding, embedding
        embedding, pooled, patches = embed_with_patches(self._model, normal)
        features = pooled.float() if self._features == "tower" else pool_patches(patches.float(), self._grid)
        return embedding.float(), features
