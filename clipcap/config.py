"""The configuration: one TOML file, one section for each stage, a line of meaning under each field."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipcap.errors import ConfigError
from clipcap.resources import resource

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")]


class Section(BaseModel):
    """Unknown keys are errors, as are nan and inf; values are immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class DatasetConfig(Section):
    name: Name = "images"
    """Names the batches: lower-case letters, digits, - and _."""
    source: str = ""
    """URLs (.parquet, .csv, .tsv, .jsonl), a folder, a Karpathy or COCO .json, webdataset .tar, "builtin:sample"."""
    images: str = ""
    """Where a JSON's files are: a folder or a base URL; relative to the config. Empty: beside the JSON."""
    default_split: Literal["train", "val", "test", ""] = ""
    """The split of rows that name none."""


class ServeConfig(Section):
    """A web server on 127.0.0.1 that hands a local folder to the downloader, only while something is downloaded."""

    folder: str = ""
    """The folder that is served; relative to the config. Empty: no server (the sample serves its own scenes)."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8765
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
    retries: Annotated[int, Field(ge=0)] = 2
    """Times that a URL is asked again."""
    distributor: Literal["multiprocessing", "ray", "pyspark"] = "multiprocessing"
    """img2dataset's own: over processes here, or over a Ray or Spark cluster (extras "ray" and "spark")."""
    processes: Positive = 1
    """Slices of a shard that are fetched at the same time, each with its own threads."""
    min_image_size: Annotated[int, Field(ge=1)] = 32
    """Images with a shorter edge (pixels) are filtered."""
    max_image_pixels: Positive = 178_956_970
    """Images with more pixels by their header are filtered before anything decodes them."""


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


class LanguageModelConfig(Section):
    name: str = "gpt2"
    """A causal language model: hub name, folder ("./…", relative to the config), .gguf file, or "scratch"."""
    tune: bool = False
    """Whether the language model learns too; one from scratch always does."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of low-rank adapters (LoRA, Hu et al. 2021) that learn while the model itself stays frozen; 0 has none."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_dropout: Share = 0.0
    """Dropout of what the adapters read."""
    lora_targets: list[str] = []
    """Layers that get adapters, for example ["q_proj", "v_proj"]; empty: all linear ones but the vocabulary head."""
    layers: Positive = 4
    """Scratch only: transformer blocks."""
    heads: Positive = 4
    """Scratch only: attention heads."""
    hidden_size: Positive = 256
    """Scratch only: width."""
    vocab_size: Annotated[int, Field(ge=260)] = 4000
    """Scratch only: upper bound for the tokenizer trained on the captions."""
    lowercase: bool = True
    """Scratch only: the tokenizer lower-cases."""
    dropout: Share = 0.1
    """Scratch only: residual, attention and embedding dropout."""

    @model_validator(mode="after")
    def _fits(self) -> LanguageModelConfig:
        if self.lora_rank and (self.tune or self.name == "scratch"):
            what = "tune = true" if self.tune else 'name = "scratch"'
            raise ValueError(f"lora_rank is for a frozen language model, and {what} trains all of it: choose one")
        return self


class SelfCriticalConfig(Section):
    epochs: Annotated[int, Field(ge=0)] = 0
    """Passes over the images after the ordinary training, rewarded with CIDEr-D, the end a word of it; 0 has none."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Constant after a short warm-up."""
    batch_size: Positive = 16
    """Images in a step."""
    samples: Annotated[int, Field(ge=2)] = 5
    """Captions sampled for each image; each one's baseline is the mean reward of the others (Luo 2020)."""


class TrainConfig(Section):
    mapper: Literal["mlp", "transformer", "linear"] = "mlp"
    """The mapping network (paper, section 3.2); "linear" is for patch tokens: each becomes a prefix vector."""
    prefix_length: Positive = 10
    """Vectors given to the language model."""
    clip_length: Positive = 10
    """Transformer mapper only: vectors that the embedding is expanded to."""
    mapper_layers: Positive = 8
    """Transformer mapper only: layers."""
    mapper_heads: Positive = 8
    """Transformer mapper only: attention heads."""
    mapper_hidden: Annotated[int, Field(ge=0)] = 0
    """MLP mapper only: hidden units; 0 is the published prefix_length * hidden_size / 2."""
    normalize: bool = True
    """L2-normalise embeddings; stored with the model, so that captioning does the same."""
    standardize: bool = True
    """Learn on embeddings of mean 0 and variance 1; folded into the mapper's first layer, the layout stays."""
    embedding_noise: Annotated[float, Field(ge=0.0)] = 0.0
    """Standard deviation of Gaussian noise, times 1/sqrt(clip_dim), added to training embeddings."""
    epochs: Positive = 10
    """Passes over the captions."""
    batch_size: Positive = 40
    """Captions in a step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Peak learning rate of AdamW (weight decay below, eps 1e-6)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    warmup_steps: Annotated[int, Field(ge=0)] = 5000
    """Linear warm-up; at most a tenth of all steps."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Decay after the warm-up."""
    label_smoothing: Share = 0.0
    """Mass given to other tokens."""
    gradient_clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 does not clip."""
    max_tokens: Positive = 64
    """Captions are cut after this many tokens, end-of-text included."""
    seed: int = 0
    """Of weights, order and dropout."""
    precision: Precision = "auto"
    """Of the forward pass (autocast); "auto" is bfloat16 on a GPU that has it, else float32. Weights stay float32."""
    tokens_per_batch: Annotated[int, Field(ge=0)] = 0
    """Budget of a batch in positions, prefix and padding included, instead of batch_size; 0 counts captions."""
    accumulate: Positive = 1
    """Batches whose gradients are added before a step."""
    processes: Positive = 1
    """Processes that train together, one for each GPU (or all on the CPU); a step takes a batch from each."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Decay of the moving average of the weights, which is then what is validated and stored; 0 has none."""
    validate_every: Annotated[int, Field(ge=0)] = 0
    """Steps between validations; 0 validates after each epoch."""
    val_captions: Annotated[int, Field(ge=0)] = 0
    """Images of val that are captioned (greedily) and scored with CIDEr at each validation; 0 has the loss alone."""
    select: Literal["loss", "cider"] = "loss"
    """Which validation score decides what the best model is; "cider" needs val_captions."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Validations without a better one after which training stops; 0 never stops early."""
    checkpoint_every_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds between checkpoints that a killed training resumes from."""
    language_model: LanguageModelConfig = LanguageModelConfig()
    self_critical: SelfCriticalConfig = SelfCriticalConfig()

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.select == "cider" and not self.val_captions:
            raise ValueError('select = "cider" needs val_captions, for example 1000')
        if self.self_critical.epochs and self.select != "cider":
            raise ValueError('self_critical needs select = "cider": a reward raises CIDEr and not the likelihood')
        return self


class CaptionConfig(Section):
    method: Literal["beam", "sample", "published"] = "beam"
    """Beam search, random sampling, or the beam search of the published code (which stops at a full stop)."""
    beam_size: Positive = 5
    """Beams; 1 is greedy."""
    num_captions: Positive = 1
    """Captions for an image, best first; beam search needs as many beams."""
    max_new_tokens: Positive = 67
    """Longest caption in tokens."""
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    """Shortest caption in tokens, the end not counted."""
    length_penalty: float = 1.0
    """A hypothesis scores log-probability / length ** length_penalty."""
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    """Above 1, tokens that a caption has already become less likely (Keskar et al. 2019)."""
    no_repeat_ngram: Annotated[int, Field(ge=0)] = 0
    """No sequence of so many tokens twice in a caption; 0 allows all."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling: below 1 is more careful."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sampling: only from the K likeliest tokens; 0 from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sampling: only from the fewest tokens that hold this mass (nucleus, Holtzman et al. 2020)."""
    seed: int = 0
    """Sampling: the same seed draws the same captions, whatever stands in the batch."""
    rerank: Share = 0.0
    """Weight of the CLIP similarity against the model's own score in choosing among the candidates; 0 has none."""
    candidates: Annotated[int, Field(ge=0)] = 0
    """Captions among which rerank chooses; 0: all beams."""
    precision: Precision = "auto"
    """Of the language model; "auto" is bfloat16 on a GPU that has it, else float32."""
    batch_size: Positive = 64
    """Images decoded together."""


class EvaluateConfig(Section):
    split: Literal["val", "test"] = "test"
    """Scored split; images there that have no reference are an error."""
    shuffled_control: bool = False
    """Also caption with embeddings exchanged between images: what the language model reaches without looking."""


class ReportConfig(Section):
    images: Annotated[int, Field(ge=0)] = 60
    """Images in the contact sheet."""
    seed: int = 0
    """Chooses them."""


class Config(Section):
    """The whole file."""

    data_dir: str = ""
    """The lake's root, relative to the current folder; --data-dir goes before, CLIPCAP_DATA_DIR and ./data after it."""
    engine: Literal["local", "ray"] = "local"
    """Where shards are embedded and captioned: in this process, or on a Ray cluster (extra "ray")."""
    ray: RayConfig = RayConfig()
    dataset: DatasetConfig = DatasetConfig()
    serve: ServeConfig = ServeConfig()
    sample: SampleConfig = SampleConfig()
    download: DownloadConfig = DownloadConfig()
    embed: EmbedConfig = EmbedConfig()
    train: TrainConfig = TrainConfig()
    caption: CaptionConfig = CaptionConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()


def _find(path: str | Path) -> Path:
    """The file itself, or a shipped config of that name ("sample", "configs/sample.toml")."""
    file = Path(path)
    if file.is_file():
        return file
    shipped = resource("configs") / f"{file.stem}.toml"
    if shipped.is_file() and file.parent in (Path("."), Path("configs")):
        return shipped
    names = ", ".join(sorted(p.stem for p in resource("configs").glob("*.toml")))
    raise ConfigError(f"no configuration at {file}: give a path to a .toml file, or one of the shipped names: {names}")


def _override(values: dict[str, Any], assignment: str) -> None:
    """Applies one ``section.key=value``; the value is read as TOML, and as a plain string where it is none."""
    name, equals, text = assignment.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {assignment}: expected section.key=value, for example train.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, key = name.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {assignment}: {section!r} is a value, not a section")
    values[key] = value


def _anchor(values: dict[str, Any], folder: Path) -> None:
    """Makes the file's relative paths relative to the file, whichever folder the command runs in."""

    def anchor(section: Any, key: str, prefix: str = "", is_path: Callable[[str], bool] = lambda text: True) -> None:
        text = section.get(key) if isinstance(section, dict) else None
        if isinstance(text, str) and text.startswith(prefix) and is_path(text):
            section[key] = prefix + str((folder / text.removeprefix(prefix)).resolve())

    def is_file(text: str) -> bool:
        return bool(text) and "://" not in text and not text.startswith("builtin:")

    anchor(values.get("dataset"), "source", is_path=is_file)
    anchor(values.get("dataset"), "images", is_path=is_file)
    anchor(values.get("serve"), "folder", is_path=is_file)
    anchor(values.get("embed"), "encoder", prefix="local-dir:")
    train = values.get("train")
    language_model = train.get("language_model") if isinstance(train, dict) else None

    def is_model_file(text: str) -> bool:  # "owner/repository/file.gguf" is on the hub, unless it is here
        return text.endswith(".gguf") and (text.count("/") < 2 or (folder / text).is_file())

    anchor(language_model, "name", is_path=lambda text: text.startswith(("./", "../", "/")) or is_model_file(text))


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Reads, overrides and validates a configuration.

    Args:
        path: a TOML file, or the name of a shipped one.
        overrides: ``section.key=value`` each, as given to ``--set``; relative paths in them count from the
            current folder.

    Raises:
        ConfigError: with every problem of the file at once.
    """
    file = _find(path)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    _anchor(values, file.resolve().parent)
    overridden: dict[str, Any] = {}
    for assignment in overrides:
        _override(overridden, assignment)
    _anchor(overridden, Path.cwd())
    return parse_config(_merge(values, overridden), where=str(file))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse_config(values: dict[str, Any], where: str = "the configuration") -> Config:
    """Validates plain values (what flows get as parameters).

    Raises:
        ConfigError: with every problem at once, each with its key.
    """
    return parse_section(Config, values, where)


AnySection = TypeVar("AnySection", bound=Section)


def parse_section(kind: type[AnySection], values: dict[str, Any], where: str) -> AnySection:
    """Validates plain values as one section (or the whole).

    Raises:
        ConfigError: with every problem at once, each with its key.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "(file)"
            if problem["type"] == "extra_forbidden":
                problems.append(f"{key}: unknown key{_suggest(problem['loc'])}")
            else:
                problems.append(f"{key}: {problem['msg']} (got {problem['input']!r})")
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None


def _suggest(location: tuple[int | str, ...]) -> str:
    """The nearest known key of the same section, as " (did you mean …?)"."""
    import difflib

    section: Any = Config
    for part in location[:-1]:
        field = section.model_fields.get(part)
        section = field.annotation if field else None
        if section is None or not hasattr(section, "model_fields"):
            return ""
    near = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known here: {', '.join(section.model_fields)})"
