"""open_clip encoders: what identifies them, and what they make of images and texts."""

from __future__ import annotations

import hashlib
import re
import textwrap
import threading
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clipcap.batches import Batches
from clipcap.embedding.decode import Preprocessing
from clipcap.embedding.encoder_name import parse_encoder
from clipcap.errors import ModelError
from clipcap.storage.commit import sha256_of
from clipcap.storage.entries import digest

if TYPE_CHECKING:
    import torch

    from clipcap.embedding.forward import ForwardPass, Pending

_TEXTS_AT_ONCE = 256
_HASHED = (".json", ".safetensors", ".bin", ".pth", ".pt")  # of a local folder: what open_clip may read there


class Encoder:
    """An image encoder, loaded when it is first needed.

    Args:
        name: as in the configuration.
        device: "auto", "cpu", "cuda", "cuda:1".
        precision: of the image tower, see :func:`clipcap.embedding.forward.tower_dtype`; texts are always float32.
        compiles: whether torch.compile makes a program of the image tower.
    """

    def __init__(self, name: str, device: str = "auto", precision: str = "auto", compiles: bool = False) -> None:
        self.name, self.precision = name, precision
        self._asked = parse_encoder(name)
        self._device, self._compiles = device, compiles
        self._loading = threading.RLock()  # shards that are embedded side by side need one model

    @property
    def features(self) -> Literal["embedding", "tower", "tokens"]:
        """What models read of it."""
        return self._asked.features

    @cached_property
    def hash(self) -> str:
        """Identifies weights, preprocessing and what is stored. Local files are hashed as they lie, without loading."""
        if self.features == "embedding":
            return self._weights_hash
        return digest([self._weights_hash, self.features, self._asked.token_grid])

    @cached_property
    def _weights_hash(self) -> str:
        folder = self._local_folder
        if folder is not None:
            files = [f for f in sorted(folder.iterdir()) if f.suffix in _HASHED]
            if not files:
                raise ModelError(f"encoder {self.name!r}: {folder} is no open_clip folder (no open_clip_config.json)")
            return digest([[f.name, sha256_of(f)] for f in files])
        if Path(self._asked.pretrained).is_file():
            return digest([self._asked.model, sha256_of(Path(self._asked.pretrained))])
        summary = hashlib.sha256()
        for key, tensor in sorted(self.model.state_dict().items()):
            summary.update(key.encode())
            summary.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest([summary.hexdigest(), asdict(self.preprocessing)])

    @property
    def id(self) -> str:
        """The folder name of its embeddings: a readable name and the start of the hash."""
        name, mark, kind = self.name.partition("#")
        label = name.removeprefix("local-dir:").rstrip("/").removeprefix("hf-hub:")
        label = Path(label).name if name.startswith("local-dir:") else label
        label = re.sub(r"[^A-Za-z0-9_-]+", "-", label)[:60].strip("-_") or "encoder"
        label += f"-{kind}" if mark else ""
        return f"{label}@{self.hash[:12]}"

    @property
    def _local_folder(self) -> Path | None:
        if not self._asked.model.startswith("local-dir:"):
            return None
        folder = Path(self._asked.model.removeprefix("local-dir:"))
        if not folder.is_dir():
            raise ModelError(f"encoder {self.name!r}: there is no folder {folder}; correct embed.encoder")
        return folder

    @cached_property
    def device(self) -> torch.device:
        import torch

        return torch.device(resolve_device(self._device))

    @property
    def model(self) -> Any:
        """The open_clip model in eval mode on its device.

        Raises:
            ModelError: it cannot be found or loaded.
        """
        with self._loading:
            return self._model

    @cached_property
    def _model(self) -> Any:
        import open_clip

        self._local_folder  # noqa: B018  raises with a clear message where it is missing
        try:
            model = open_clip.create_model(
                self._asked.model, pretrained=self._asked.pretrained or None, device=self.device,
                require_pretrained=True,  # else a folder without weights would embed with random ones
            )  # fmt: skip
        except Exception as error:  # open_clip, huggingface_hub and torch each raise their own kinds
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            first = textwrap.shorten(first, 400, placeholder=" …")  # open_clip lists every model that it knows
            raise ModelError(
                f"encoder {self.name!r} cannot be loaded: {first}; check the name with open_clip.list_pretrained(), "
                "or give a folder as local-dir:…"
            ) from None
        return model.eval()

    @cached_property
    def preprocessing(self) -> Preprocessing:
        config = self.model.visual.preprocess_cfg
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        return Preprocessing(
            height, width, tuple(config["mean"]), tuple(config["std"]), config["interpolation"],
            config["resize_mode"], config["fill_color"],
        )  # fmt: skip

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """Embeds texts in the space of :meth:`encode`; what is longer than the text tower reads is cut.

        Returns:
            float32 (N, clip_dim), not normalised.

        Raises:
            ModelError: the encoder has no text tower.
        """
        import open_clip
        import torch

        if not callable(getattr(self.model, "encode_text", None)):
            raise ModelError(
                f"encoder {self.name!r} has no text tower: set embed.captions = false and caption.rerank = 0, and "
                "search with --image"
            )
        try:
            tokenizer = open_clip.get_tokenizer(self._asked.model)
        except Exception as error:  # open_clip and the hub's client raise their own kinds
            raise ModelError(f"encoder {self.name!r} has no tokenizer for captions ({type(error).__name__})") from None

        def encoded(part: slice) -> np.ndarray:
            tokens = tokenizer(texts[part]).to(self.device)
            vectors: np.ndarray = self.model.encode_text(tokens).float().cpu().numpy()
            return vectors

        with torch.inference_mode():
            vectors = list(Batches(_TEXTS_AT_ONCE, "embedding texts", "embed.device").map(encoded, len(texts)))
        return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Embeds a batch; see :meth:`encode_with_features`."""
        return self.encode_with_features(pixels)[0]

    def encode_with_features(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeds a batch, and gives what models read of it, in one forward pass.

        Args:
            pixels: uint8 (B, height, width, 3), as :func:`clipcap.embedding.decode.decode` gives them.

        Returns:
            The embedding, float32 (B, clip_dim), not normalised. And the features, float32: the same array again, the
            tower's pooled features (B, C), or its patch tokens (B, L, C).

        Raises:
            ModelError: features of a tower that does not show them.
        """
        embedding, features, _ = self.start(pixels).result()
        return embedding, features

    def start(self, pixels: np.ndarray) -> Pending:
        """Hands a batch to the device, where it may still compute when this returns."""
        return self.forward_pass.start(pixels)

    def facts(self) -> dict[str, Any]:
        """How it ran: precision, and the worst cosine to float32 of a few of this process's first images."""
        done = self.forward_pass
        return {"precision": str(done.dtype).removeprefix("torch."), "cosine_to_float32": done.cosine_to_float32}

    @property
    def forward_pass(self) -> ForwardPass:
        with self._loading:
            return self._forward_pass

    @cached_property
    def _forward_pass(self) -> ForwardPass:
        from clipcap.embedding.forward import ForwardPass

        self._weights_hash  # noqa: B018  of the weights as they were loaded, before the pass casts them
        return ForwardPass(
            self.model, self.preprocessing, self.device, features=self.features, token_grid=self._asked.token_grid,
            precision=self.precision, compiles=self._compiles,
        )  # fmt: skip


def resolve_device(name: str) -> str:
    """ "auto" to "cuda" where there is a GPU, else "cpu"; other names as they are.

    Raises:
        ModelError: a device that torch does not know, or a GPU where there is none.
    """
    import torch

    if name != "auto":
        try:
            kind = torch.device(name).type
        except RuntimeError:
            raise ModelError(f"there is no device {name!r}; this machine has: {', '.join(_devices())}") from None
        if kind == "cuda" and not torch.cuda.is_available():
            raise ModelError(f"device {name!r}: this torch sees no GPU; use cpu, or install a CUDA build of torch")
        if kind not in ("cpu", "cuda", "mps") or (kind != "cpu" and ":" in name and name not in _devices()):
            raise ModelError(f"there is no device {name!r}; this machine has: {', '.join(_devices())}")
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _devices() -> list[str]:
    """Names that ``resolve_device`` takes on this machine."""
    import torch

    found = ["auto", "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def list_devices(name: str) -> list[str]:
    """Every GPU, where "auto" or "cuda" names none in particular; else the one device."""
    import torch

    device = resolve_device(name)
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] if device == "cuda" else [device]


def get_encoder(name: str, device: str = "auto", precision: str = "auto", compiles: bool = False) -> Encoder:
    """The encoder, loaded once in a process; shards share it."""
    return _encoder(name, list_devices(device)[0], precision, compiles)


@lru_cache(maxsize=8)
def _encoder(name: str, device: str, precision: str, compiles: bool) -> Encoder:
    return Encoder(name, device, precision, compiles)
