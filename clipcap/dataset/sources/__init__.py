"""What can be landed: URL lists, folders of images, Karpathy and COCO JSONs, webdataset shards, films, the sample."""

from __future__ import annotations

from pathlib import Path

from clipcap.config import Config
from clipcap.dataset.sources.rows import IMAGE_EXTENSIONS, SPLITS, SourceRow, endings, problem_of
from clipcap.errors import SourceError

__all__ = ["IMAGE_EXTENSIONS", "SPLITS", "SourceRow", "endings", "problem_of", "read_source"]
_KINDS = "a list of URLs (.parquet, .csv, .tsv, .jsonl), a folder of images, a Karpathy or COCO .json, .tar, films"


def read_source(config: Config) -> list[SourceRow]:
    """All rows of the configured source, in its order.

    Raises:
        SourceError: it does not exist, is of no known kind, or cannot be read.
    """
    from clipcap.dataset.sources.annotations import read_annotations
    from clipcap.dataset.sources.films import is_film_source, read_films
    from clipcap.dataset.sources.folder import read_folder
    from clipcap.dataset.sources.url_list import SUFFIXES, read_url_list
    from clipcap.dataset.sources.webdataset import is_webdataset, read_webdataset

    source = config.dataset.source
    if source == "builtin:sample":
        from clipcap.dataset.sample import sample_rows

        return [SourceRow(r["url"], r["captions"], r["split"]) for r in sample_rows(config.sample, config.serve.port)]
    if not source:
        raise SourceError(f"dataset.source is empty: name {_KINDS}")
    path = Path(source)
    if is_webdataset(source):
        rows = list(read_webdataset(source, config.download.max_image_bytes))
    elif is_film_source(path):
        rows = list(read_films(path, config.film))
    elif path.is_dir():
        rows = list(read_folder(path))
    elif not path.exists():
        raise SourceError(f"there is no file or folder {path} to land")
    elif path.suffix == ".json":
        rows = list(read_annotations(path, config.dataset.images))
    elif path.name.endswith(SUFFIXES):
        rows = list(read_url_list(path))
    else:
        raise SourceError(f"cannot land {path}: expected {_KINDS}")
    for row in rows:
        row.split = row.split or config.dataset.default_split
    return rows
