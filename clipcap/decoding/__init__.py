"""From embeddings to captions."""

from clipcap.decoding.caption import Caption, generate, generate_many

__all__ = ["Caption", "generate", "generate_many"]
