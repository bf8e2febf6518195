"""ClipCap as a library: embeddings, mapping networks, decoding, metrics, lineage. Never imports prefect."""

from clipcap import _torchvision

__version__ = "0.1.0"

_torchvision.install()
