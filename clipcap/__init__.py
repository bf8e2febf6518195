"""ClipCap as a library: embeddings, mapping networks, decoding, metrics, lineage. Never imports prefect.

What most people need stands here; each name is imported from its module when it is first used, so that ``import
clipcap`` alone costs nothing.
"""
# ruff: noqa: F401

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipcap import _torchvision

if TYPE_CHECKING:  # what type checkers and editors see of the table below
    from clipcap.captioning import CaptionedImage, caption_images
    from clipcap.config import CaptionConfig, Config, load_config, parse_config
    from clipcap.decoding import Caption, generate, generate_many
    from clipcap.embedding.encoder import Encoder, get_encoder
    from clipcap.errors import ClipCapError
    from clipcap.metrics.compare import compare
    from clipcap.metrics.evaluate import Scores, score
    from clipcap.metrics.score_tables import score_tables
    from clipcap.model import Captioner, load_captioner, save_captioner
    from clipcap.model.published_export import export_weights
    from clipcap.model.published_weights import ImportOptions, import_weights
    from clipcap.report import render_report
    from clipcap.storage.lake import Lake
    from clipcap.storage.manifest import read_current
    from clipcap.warehouse.queries import list_macros, list_views, query
    from clipcap.warehouse.search import search

__version__ = "1.0.0"

_MODULES = {
    "clipcap.captioning": ("CaptionedImage", "caption_images"),
    "clipcap.config": ("CaptionConfig", "Config", "load_config", "parse_config"),
    "clipcap.decoding": ("Caption", "generate", "generate_many"),
    "clipcap.embedding.encoder": ("Encoder", "get_encoder"),
    "clipcap.errors": ("ClipCapError",),
    "clipcap.metrics.compare": ("compare",),
    "clipcap.metrics.evaluate": ("Scores", "score"),
    "clipcap.metrics.score_tables": ("score_tables",),
    "clipcap.model": ("Captioner", "load_captioner", "save_captioner"),
    "clipcap.model.published_export": ("export_weights",),
    "clipcap.model.published_weights": ("ImportOptions", "import_weights"),
    "clipcap.report": ("render_report",),
    "clipcap.storage.lake": ("Lake",),
    "clipcap.storage.manifest": ("read_current",),
    "clipcap.warehouse.queries": ("list_macros", "list_views", "query"),
    "clipcap.warehouse.search": ("search",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]

_torchvision.install()


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'clipcap' has no attribute {name!r}")
        return getattr(import_module(_MODULE_OF[name]), name)
