"""What "auto" means for numbers."""

from __future__ import annotations

import torch


def reduced_dtype(device: torch.device, precision: str) -> torch.dtype | None:
    """The dtype that a forward pass is asked to run in; None is plain float32.

    Args:
        device: where it runs; "auto" is bfloat16 on a GPU that has it, and float32 elsewhere.
        precision: "auto", "float32", "bfloat16" or "float16".
    """
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": None}[precision]
