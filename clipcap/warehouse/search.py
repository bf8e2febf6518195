"""Images nearest to a text or to a picture: embedded with the encoder of the model in production, searched in SQL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from clipcap.embedding.decode import decode
from clipcap.embedding.encoder import get_encoder
from clipcap.errors import DataError, ModelError
from clipcap.storage.lake import Lake
from clipcap.warehouse.queries import query


def search(lake: Lake, text: str = "", image: Path | None = None, k: int = 10, device: str = "auto") -> pa.Table:
    """The nearest images of the lake.

    Args:
        lake: the lake.
        text: what they should show; or
        image: a picture that they should resemble.
        k: how many.
        device: where the encoder runs.

    Returns:
        Columns rank, cosine, caption, image_url, sample_key, encoder_id.

    Raises:
        DataError: the lake has no embeddings, or the picture cannot be read.
        ModelError: the encoder cannot be loaded, has other weights by now, or no text tower.
    """
    known = query(lake, "from encoders where encoder_id = chosen_encoder('')").to_pylist()
    if not known:
        raise DataError(f"the lake {lake.address} has no embeddings to search: `clipcap run` makes them")
    name, encoder_id = known[0]["encoder"], known[0]["encoder_id"]
    encoder = get_encoder(name, device)
    if encoder.id.rpartition("@")[2] != encoder_id.rpartition("@")[2]:
        raise ModelError(
            f"the encoder {name!r} has other weights ({encoder.id}) than those that embedded this lake ({encoder_id}); "
            "find the old ones, or run again to embed with these"
        )
    if image is not None:
        try:
            pixels = decode(image.read_bytes(), encoder.preprocessing)
        except OSError as error:
            raise DataError(f"{image} cannot be read: {error.strerror or error}") from None
        vector = encoder.encode(np.stack([pixels]))[0]
    else:
        vector = encoder.encode_text([text])[0]
    asked = {"vector": vector.tolist(), "k": k, "encoder": encoder_id}
    return query(lake, "from nearest_to($vector::float[], $k, $encoder)", asked)
