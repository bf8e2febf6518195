"""Mapping networks, language models, the captioner that joins them, and its files."""

from clipcap.model.captioner import Captioner, CaptionerSettings
from clipcap.model.checkpoint import load_captioner, save_captioner, weights_hash

__all__ = ["Captioner", "CaptionerSettings", "load_captioner", "save_captioner", "weights_hash"]
