"""A captioner as one ONNX file: from embeddings, or from pictures, to the token ids of greedy captions.

The loop over tokens is inside, so that any runtime of ONNX writes captions without torch or transformers. The
language model reads prefix and caption anew at each step (there is no key-value cache inside): right for any causal
language model, and slower than ``clipcap caption`` for long captions.

Legend: B images, C clip_dim, P prefix_length, D hidden size, M max_new_tokens, V vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipcap.config import CaptionConfig
from clipcap.decoding.caption import generate
from clipcap.embedding.encoder import get_encoder
from clipcap.embedding.store import read_embeddings
from clipcap.errors import ModelError
from clipcap.model.captioner import Captioner
from clipcap.model.checkpoint import load_captioner, weights_hash
from clipcap.model.language_model import positions_of, quiet, word_embeddings
from clipcap.storage.commit import writing
from clipcap.storage.lake import Lake
from clipcap.storage.manifest import read_current

TOLERANCE = 1e-3
"""Largest difference to torch that is let through, relative to the largest value of each output."""
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_SEED = 0  # of the random inputs that both compute
_LARGEST = 2 * 2**30 - 2**20  # bytes of weights: a protobuf message, which an .onnx is, ends at 2 GiB


class GreedyCaptions(nn.Module):
    """Embeddings (B, C), or pictures (B, height, width, 3) uint8, to greedy captions.

    Gives ``token_ids`` (B, M) int64, filled up with the end-of-text token; ``log_probability`` (B) float32, the sum
    over a caption's tokens, end-of-text included; ``prefix`` (B, P, D) float32, what the mapping network made; and
    of pictures ``clip_embedding`` (B, C) float32, which a search for images by words may want.
    """

    def __init__(self, captioner: Captioner, longest: int, visual: nn.Module | None = None, preprocessing: Any = None):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.captioner, self.longest, self.visual = captioner, longest, visual
        if preprocessing is not None:
            self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1) * 255)
            self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1) * 255)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.visual is not None:
            images = self.visual((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)  # (B, C)
        prefix = self.captioner.prefix(images)  # (B, P, D)
        language_model, eos = self.captioner.language_model, self.captioner.settings.eos_id
        words = word_embeddings(language_model)
        places = torch.arange(self.longest)
        first = prefix[:, 0, 0] * 0  # (B) zeros: a batch of whatever size, which a constant would fix

        def goes_on(step: Tensor, tokens: Tensor, is_done: Tensor, total: Tensor) -> Tensor:
            return (step < self.longest) & (~is_done).any()

        def one_more(step: Tensor, tokens: Tensor, is_done: Tensor, total: Tensor) -> tuple[Tensor, ...]:
            # What stands after the place being written is read too and changes nothing: the model is causal.
            inputs = torch.cat([prefix, words(tokens).to(prefix.dtype)], dim=1)  # (B, P+M, D)
            logits = language_model(inputs_embeds=inputs, use_cache=False).logits  # (B, P+M, V)
            last = (step + prefix.shape[1] - 1).reshape(1)
            scores = F.log_softmax(logits.index_select(1, last)[:, 0].float(), dim=-1)  # (B, V)
            best = torch.where(is_done, torch.full_like(tokens[:, 0], eos), scores.argmax(dim=-1))  # (B)
            added = scores.gather(1, best[:, None])[:, 0]
            total = torch.where(is_done, total, total + added)
            tokens = torch.where((places == step)[None], best[:, None], tokens)
            return step + 1, tokens, is_done | (best == eos), total

        tokens = torch.full((1, self.longest), eos, dtype=torch.long) + first[:, None].long()  # (B, M)
        begin = (torch.zeros((), dtype=torch.long), tokens, first != 0, first)
        _, tokens, _, total = torch.while_loop(goes_on, one_more, begin)
        return (tokens, total, prefix) if self.visual is None else (tokens, total, prefix, images)

    @property
    def outputs(self) -> list[str]:
        """Names of what it gives."""
        return ["token_ids", "log_probability", "prefix", *([] if self.visual is None else ["clip_embedding"])]


def export_onnx(
    folder: Path, out: Path, *, max_new_tokens: int = 0, pixels: bool = False, embeddings: np.ndarray | None = None
) -> dict[str, Any]:
    """Writes a stored captioner as one ONNX file, if it computes what torch computes.

    Args:
        folder: of the model.
        out: the new file.
        max_new_tokens: longest caption; 0: as the model says, and at most what its language model has positions for.
        pixels: begin with pictures as the encoder's preprocessing gives them, and hold the image encoder too.
        embeddings: (N, C) real ones that the file is checked on besides random ones.

    Returns:
        out, size_bytes, input, max_new_tokens, checked_on (images), and differences (of each output, the largest).

    Raises:
        ModelError: a package is missing, ``out`` exists, the model cannot be written so, or the file's results differ.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(f'--layout onnx needs {", ".join(missing)}: pip install "clipcap-pipeline[onnx]"')
    if out.exists():
        raise ModelError(f"{out} exists: name a new file, nothing was written")
    captioner = load_captioner(folder)
    settings = captioner.settings
    positions = positions_of(captioner.language_model)
    room = settings.decoding.max_new_tokens if positions is None else positions - settings.prefix_length
    longest = max_new_tokens or min(settings.decoding.max_new_tokens, room)
    if positions is not None and longest > room:
        raise ModelError(f"--max-new-tokens {longest}: the language model has positions for {room} after the prefix")
    visual, preprocessing = _image_tower(settings.encoder, settings.features) if pixels else (None, None)
    graph = GreedyCaptions(captioner, longest, visual, preprocessing).eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in [*graph.parameters(), *graph.buffers()])
    if size > _LARGEST:
        raise ModelError(
            f"the weights are {size / 2**30:.1f} GiB, and one ONNX file holds 2 GiB: use --layout huggingface"
        )
    generator = torch.Generator().manual_seed(_SEED)
    if preprocessing is not None:
        shape = (8, preprocessing.height, preprocessing.width, 3)
        inputs = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    else:
        inputs = torch.randn((8, *settings.input_shape), generator=generator)
        if embeddings is not None:
            inputs = torch.cat([inputs, torch.from_numpy(embeddings).float()])
    name = "pixels" if pixels else "clip_embedding"
    with writing(out) as aside:
        _write(graph, inputs[:2], name, _metadata(folder, captioner, longest, preprocessing), aside)
        differences = _compare(captioner, graph, inputs, name, longest, aside)
    return {
        "out": str(out), "size_bytes": out.stat().st_size, "input": name, "max_new_tokens": longest,
        "checked_on": len(inputs), "differences": differences,
    }  # fmt: skip


def some_embeddings(lake: Lake, encoder_hash: str, wanted: int = 32) -> np.ndarray | None:
    """A few images of a lake as models of an encoder read them, (N, C) or (N, L, C) float32; None without any."""
    for entry in read_current(lake).of_stage("embed"):
        if entry.meta["encoder_id"].endswith(f"@{encoder_hash[:12]}") and entry.rows.get("ok"):
            features = read_embeddings([lake.absolute(entry.file("embeddings").path)]).features
            return np.asarray(features[:wanted], dtype=np.float32)
    return None


def _image_tower(encoder: str, features: str) -> tuple[nn.Module, Any]:
    if features != "embedding":
        raise ModelError(f"--pixels is for models that read embeddings, and this one reads features = {features!r}")
    if not encoder:
        raise ModelError("--pixels needs the image encoder, and the model names none")
    loaded = get_encoder(encoder, "cpu", "float32")
    return loaded.model.visual, loaded.preprocessing


def _metadata(folder: Path, captioner: Captioner, longest: int, preprocessing: Any) -> dict[str, str]:
    """All that a program needs besides the graph, so that one file suffices."""
    settings = captioner.settings
    encoder = settings.encoder
    fast = getattr(captioner.tokenizer, "backend_tokenizer", None)
    found = {
        "model_id": settings.model_id,
        "weights_sha256": weights_hash(folder),
        "encoder": Path(encoder).name if encoder.startswith("local-dir:") else encoder,
        "encoder_hash": settings.encoder_hash,
        "eos_id": str(settings.eos_id),
        "keep_eos": json.dumps(settings.keep_eos),
        "max_new_tokens": str(longest),
        "tokenizer.json": fast.to_str() if fast is not None else "",
    }
    if preprocessing is not None:
        found["preprocessing"] = json.dumps(vars(preprocessing))
    return {f"clipcap.{name}": value for name, value in found.items()}


def _write(graph: GreedyCaptions, example: Tensor, name: str, metadata: dict[str, str], file: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    with quiet(), _silent(), torch.no_grad():
        try:
            program: Any = torch.onnx.export(
                graph, (example,), dynamo=True, verbose=False, input_names=[name],
                output_names=graph.outputs, dynamic_shapes=({0: batch},),
            )  # fmt: skip
        except Exception as error:  # torch's exporter wraps whatever it meets
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            kind = graph.captioner.language_model.config.model_type
            raise ModelError(
                f"this model cannot be written as ONNX (language model of the kind {kind!r}; torch says: {reason}); "
                "--layout huggingface writes any model"
            ) from None
    program.model.metadata_props.update(metadata)
    program.save(file, external_data=False)


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter warns of what it does itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _compare(
    captioner: Captioner, graph: GreedyCaptions, inputs: Tensor, name: str, longest: int, file: Path
) -> dict[str, float]:
    """The file's outputs beside those of decoding as ``clipcap caption`` does it, which shares no line with the graph.

    Raises:
        ModelError: captions differ, or numbers by more than TOLERANCE; nothing is kept then.
    """
    import onnxruntime

    quiet_options = onnxruntime.SessionOptions()
    quiet_options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), quiet_options, providers=["CPUExecutionProvider"])
    found = dict(zip(graph.outputs, session.run(None, {name: inputs.numpy()}), strict=True))
    tokens = found["token_ids"]
    embeddings = inputs
    if graph.visual is not None:
        encoder = get_encoder(captioner.settings.encoder, "cpu", "float32")
        embeddings = torch.from_numpy(encoder.encode(inputs.numpy()))
    greedy = CaptionConfig(beam_size=1, max_new_tokens=longest, length_penalty=0.0)
    wanted = generate(captioner, embeddings, greedy)
    eos = captioner.settings.eos_id
    for row, caption in enumerate(wanted):
        expected = [*caption.token_ids, *[eos] * longest][:longest]
        if tokens[row].tolist() != expected:
            place = next(n for n, (a, b) in enumerate(zip(tokens[row], expected, strict=True)) if a != b)
            raise ModelError(
                f"the ONNX file writes another caption than torch for input {row} of {len(wanted)}: token {place} is "
                f"{tokens[row][place]}, expected {expected[place]}; nothing was written"
            )
    with torch.inference_mode():
        expected_values = {
            "log_probability": np.array([caption.log_probability for caption in wanted]),
            "prefix": captioner.prefix(embeddings).numpy(),
            "clip_embedding": embeddings.numpy(),
        }
    differences = {name: _difference(found[name], expected_values[name]) for name in graph.outputs[1:]}
    for output, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ModelError(
                f"the ONNX file's {output} differs from torch's by {difference:.2g} of its largest value, "
                f"and {TOLERANCE:g} is let through; nothing was written"
            )
    return differences


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-9))
