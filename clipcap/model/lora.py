"""Low-rank adapters (LoRA, Hu et al. 2021) in a frozen language model, in peft's layers and peft's files.

A layer that computed W x computes W x + alpha / r * B A x, of which A (r, in) and B (out, r) learn. B starts as zeros,
so that the language model begins as it was. The layers are exchanged in place: the model stays the transformers model
that decoding knows.
"""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from clipcap.config import LanguageModelConfig
from clipcap.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_NAME = "default"  # peft can hold several adapters in a model; here there is one


def add_adapters(language_model: PreTrainedModel, config: LanguageModelConfig) -> None:
    """Puts new adapters (A random by torch's current seed, B zeros) into a language model, whose weights are frozen.

    Args:
        config: ``lora_rank`` above 0, ``lora_alpha``, ``lora_dropout``, ``lora_targets``.

    Raises:
        ModelError: ``lora_targets`` names layers that the model does not have, or that cannot have adapters.
    """
    from peft import LoraConfig

    names = [name for name, _ in language_model.named_modules()]
    for target in config.lora_targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            known = sorted({name.split(".")[-1] for name, m in language_model.named_modules() if _is_linear(m)})
            raise ModelError(
                f"train.language_model.lora_targets: {config.name!r} has no layer {target!r}; "
                f"its linear layers are {', '.join(known)}"
            )
    wanted = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # peft only divides it
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_targets or "all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        _inject(language_model, wanted)
    except (ValueError, TypeError) as error:
        raise ModelError(f"train.language_model.lora_targets: {error}") from None


def restore_adapters(language_model: PreTrainedModel, file: Path) -> None:
    """Puts adapters as an ``adapter_config.json`` describes them into a language model; their weights are still new.

    Raises:
        CheckpointError: the file is missing or damaged, or describes what this language model cannot have.
    """
    from peft import LoraConfig

    if not file.is_file():
        raise CheckpointError(f"{file} is missing: copy the whole model folder")
    try:
        stored: Any = LoraConfig.from_pretrained(str(file.parent))
        if not isinstance(stored, LoraConfig):
            raise ValueError(f"peft_type is {stored.peft_type}, not LORA")
        _inject(language_model, stored)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file} does not fit the language model it lies beside: {error}") from None


def _inject(language_model: PreTrainedModel, config: LoraConfig) -> None:
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # GPT-2 holds its weights transposed; peft sees it
        inject_adapter_in_model(config, language_model, adapter_name=_NAME)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def write_adapter_config(language_model: PreTrainedModel, folder: Path, base: str) -> None:
    """Writes the adapters' ``adapter_config.json`` as peft reads it; ``base`` names the language model."""
    config: Any = copy.copy(language_model.peft_config[_NAME])
    config.target_modules = sorted(config.target_modules)  # a set, which would be written in any order
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))


def adapter_weights(language_model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The adapters' parameters (not copies), by the names that peft's files have."""
    return {
        "base_model.model." + re.sub(rf"(\.lora_\w+)\.{_NAME}\b", r"\1", name): parameter
        for name, parameter in language_model.named_parameters()
        if ".lora_" in name
    }


def train_adapters(language_model: PreTrainedModel, mode: bool = True) -> None:
    """Switches the adapters' dropout and nothing else."""
    for name, module in language_model.named_modules():
        if ".lora_" in name:
            module.train(mode)
