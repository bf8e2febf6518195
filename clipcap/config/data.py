"""Where images come from and how they become embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clipcap.config.base import Name, Positive, Precision, Section, Share

Port = Annotated[int, Field(ge=1, le=65535)]
HostName = Annotated[str, Field(pattern=r"^([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$")]


class DatasetConfig(Section):
    name: Name = "images"
    """Names the batches: lower-case letters, digits, - and _."""
    source: str = ""
    """URLs (.parquet, .csv, .tsv, .jsonl), a folder, Karpathy's or COCO's .json, .tar, films, "builtin:sample"."""
    images: str = ""
    """Where a JSON's files are: a folder or a base URL; relative to the config. Empty: beside the JSON."""
    default_split: Literal["train", "val", "test", ""] = ""
    """The split of rows that name none."""


class ServeConfig(Section):
    """A web server on 127.0.0.1 that hands a local folder to the downloader, only while something is downloaded."""

    folder: str = ""
    """The folder that is served; relative to the config. Empty: no server (the sample serves its own scenes)."""
    port: Port = 8765
    """Part of the URLs, so it must not change between runs; where it is taken another port is mapped onto it."""


class SampleConfig(Section):
    scenes: Annotated[int, Field(ge=12)] = 1600
    """Scenes that are rendered."""
    image_size: Annotated[int, Field(ge=48, le=512)] = 128
    """Edge of a scene in pixels."""
    seed: int = 7
    """Decides every scene and caption."""


class RayConfig(Section):
    """Where shards go with ``engine = "ray"``; see docs/cluster.md."""

    address: str = ""
    """A running cluster: "auto" on one of its machines, or ray://host:10001. Empty: a cluster of this machine's own."""
    cpus_per_shard: Positive = 2
    """Cores that a shard takes: its decoding processes and its threads."""
    gpus_per_shard: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that a shard takes; 0.5 puts two shards on one."""
    parallel_shards: Annotated[int, Field(ge=0)] = 0
    """Shards under way; 0 is as many as the cluster has room for."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Times that a shard whose worker or machine died is begun again elsewhere."""


class DownloadConfig(Section):
    shard_size: Positive = 1000
    """Rows in a shard: the unit of work, of caching and of retrying."""
    threads: Positive = 16
    """Connections of one shard's download."""
    parallel_shards: Positive = 1
    """Shards downloaded at the same time."""
    timeout_s: Positive = 10
    """Seconds for one socket operation."""
    deadline_s: Positive = 60
    """Seconds for one URL in all: its redirects, its retries, and the waiting that its server asks for."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Times that a URL is asked again where that may help; a 404 is final."""
    redirects: Annotated[int, Field(ge=0)] = 5
    """Redirects that are followed, each checked like the URL itself."""
    ports: tuple[Port, ...] = (80, 443, 8080, 8443)
    """Ports that URLs may name."""
    allow_hosts: tuple[HostName, ...] = ()
    """Hosts of a private network that lists may name all the same: "images.lan", "10.0.0.5:9000"."""
    host_connections: Positive = 8
    """Connections to one host at a time."""
    host_rate: Annotated[float, Field(ge=0)] = 30.0
    """Requests to one host in a second; 0 is no limit."""
    user_agent: Annotated[str, Field(pattern=r"^[A-Za-z][!-~]*( [ -~]+)?$")] = "clipcap"
    """What servers are told; its first word, up to a slash, is what robots.txt is searched for."""
    robots: bool = True
    """Ask no host for what its robots.txt forbids."""
    opt_out_headers: bool = True
    """Keep no image whose headers forbid it (X-Robots-Tag: noai and the like, TDM-Reservation: 1)."""
    max_image_bytes: Positive = 32 * 2**20
    """Larger images are filtered, whatever their headers said."""
    distributor: Literal["multiprocessing", "ray", "pyspark"] = "multiprocessing"
    """img2dataset's own: over processes here, or over a Ray or Spark cluster (extras "ray" and "spark")."""
    processes: Positive = 1
    """Slices of a shard that are fetched at the same time, each with its own threads."""
    min_image_size: Annotated[int, Field(ge=1)] = 32
    """Images with a shorter edge (pixels) are filtered."""
    max_image_pixels: Positive = 178_956_970
    """Images with more pixels by their header are filtered before anything decodes them."""

    def decides(self) -> list[object]:
        """What the rows that are kept depend on, for cache keys; how fast they come is none of it."""
        return [
            self.min_image_size, self.max_image_pixels, self.max_image_bytes, self.redirects, sorted(self.ports),
            sorted(self.allow_hosts), self.robots, self.opt_out_headers,
        ]  # fmt: skip


class EmbedConfig(Section):
    encoder: str = "ViT-B-32-quickgelu/openai"
    """open_clip: MODEL/PRETRAINED, hf-hub:…, local-dir:… (relative to the config), MODEL/path.pt, or builtin:sample."""
    device: str = "auto"
    """"auto" (GPU where there is one), "cpu", "cuda", "cuda:1"."""
    batch_size: Positive = 64
    """Images in one forward pass."""
    precision: Precision = "auto"
    """Of the image tower; "auto" is bfloat16 where the processor multiplies it, else float16 on a GPU, else float32."""
    compile: bool = False
    """Make a program of the image tower with torch.compile: slow to start, for long runs."""
    parallel_shards: Positive = 2
    """Shards under way on a device, so that one's files are read and written while the other computes."""
    features: Literal["embedding", "tower", "tokens"] = "embedding"
    """What models learn from: the embedding, the tower's pooled features before its projection, or its patch tokens."""
    token_grid: Annotated[int, Field(ge=0)] = 0
    """With features = "tokens": averaged to a grid of N x N tokens; 0 keeps all."""

    @property
    def encoder_name(self) -> str:
        """The encoder with what is stored of it, as files and models name it: "…/openai", "…/openai#tokens7"."""
        kind = "" if self.features == "embedding" else f"#{self.features}"
        return f"{self.encoder}{kind}{self.token_grid or ''}"

    @model_validator(mode="after")
    def _fits(self) -> EmbedConfig:
        if self.token_grid and self.features != "tokens":
            raise ValueError('token_grid needs features = "tokens"')
        return self

    captions: bool = False
    """Embed the reference captions too (view text_embeddings): for search, and scores that look at the picture."""
    near_duplicates: Share = 0.0
    """Mark images whose embedding has at least this cosine with an earlier one's (view near_duplicates); 0 is off."""
    workers: Annotated[int, Field(ge=-1)] = -1
    """Processes that decode images; -1 is one for each core, 0 decodes in the main process."""
