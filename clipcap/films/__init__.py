"""Films as images: shots, the frames that stand for them, and captions by time. Needs the extra "film" (PyAV)."""
